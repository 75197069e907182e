//! README.md tells the truth: its commands exist, its configuration is
//! accepted, its parameters parse, its messages are ours, and the demo ends as it
//! says. Its C program is run by tests/capi.rs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ngx_rs_listen::parse::{self, Rules};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|_| panic!("{path} can be read"))
}

/// The fenced blocks of a language, without their indentation.
fn blocks(language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for line in read("README.md").lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut block, fence) {
            (None, Some(name)) if name == language => {
                block = Some((line.len() - line.trim_start().len(), String::new()));
            }
            (Some(_), Some("")) => blocks.extend(block.take().map(|block| block.1)),
            (Some((indent, text)), _) => {
                text.push_str(line.get(*indent..).unwrap_or_default());
                text.push('\n');
            }
            _ => {}
        }
    }
    blocks
}

/// What stands between backticks in the first column of the tables under a
/// heading.
fn terms(heading: &str) -> Vec<String> {
    let readme = read("README.md");
    let (_, section) = readme
        .split_once(&format!("# {heading}\n"))
        .unwrap_or_else(|| panic!("README has the heading {heading}"));
    section
        .lines()
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("| `"))
        .filter(|line| !line.starts_with("listen"))
        .filter_map(|line| line.split(" | ").next())
        .flat_map(|cell| cell.split('`').step_by(2))
        .map(str::to_owned)
        .collect()
}

#[test]
fn make_targets_exist() {
    let makefile = read("Makefile");
    let commands = blocks("sh").concat();
    let targets: Vec<_> = commands
        .lines()
        .filter_map(|line| line.strip_prefix("make "))
        .filter_map(|rest| rest.split_whitespace().next())
        .collect();
    assert!(targets.contains(&"demo") && targets.contains(&"test"));
    for target in targets {
        let rule = format!("\n{target}:");
        assert!(
            makefile.contains(&rule),
            "make {target} is not in the Makefile"
        );
    }
}

#[test]
fn parameters_parse() {
    let terms = terms("The parameters");
    assert!(terms.len() >= 6, "the table has its rows: {terms:?}");
    for term in terms {
        let word = term.replace("NAME", "mptcp").replace("NUMBER", "262");
        let words = [b"127.0.0.1:80".as_slice(), word.as_bytes()];
        if let Err(error) = parse::listen(&words, &Rules::default()) {
            panic!("{word}: {error}");
        }
    }
}

#[test]
fn messages_are_ours() {
    let sources = [
        "src/protocol.rs",
        "src/parse/mod.rs",
        "src/assign.rs",
        "src/open/create.rs",
        "src/error.rs",
    ];
    let sources = sources.map(read).concat().replace('\\', "");
    let readme = read("README.md");
    for message in [
        " parameter is incompatible with ",
        " parameter`",
        "invalid mptcp ",
        "invalid protocol ",
        "nginx uses one socket for ",
        " contradicts ",
        "MPTCP is switched off, set sysctl net.mptcp.enabled=1",
        "this kernel is too old for MPTCP, Linux 5.6 is needed",
        "this kernel was built without MPTCP, CONFIG_MPTCP is needed",
        " is not supported by this kernel",
        "bind() to",
    ] {
        assert!(readme.contains(message), "README lacks \"{message}\"");
        let said = message.trim_end_matches('`');
        assert!(sources.contains(said), "\"{message}\" is said nowhere");
    }
}

#[test]
fn configuration_is_accepted() {
    let built = root().join("target/nginx");
    let [configuration, log] = &blocks("nginx")[..] else {
        panic!("README has an nginx.conf and a log format");
    };
    let mut text = configuration.replace("http {", &format!("http {{\n{log}"));
    for name in ["stream", "http"].map(|name| format!("ngx_{name}_rs_listen_module.so")) {
        let module = built.join(&name);
        assert!(module.is_file(), "{name} is missing: run \"make module\"");
        assert!(text.contains(&format!("modules/{name}")));
        text = text.replace(&format!("modules/{name}"), &module.display().to_string());
    }
    let folder = Folder::new();
    let path = folder.0.join("nginx.conf");
    let pid = folder.0.join("nginx.pid");
    let text = format!("pid {};\nerror_log stderr;\n{text}", pid.display());
    fs::write(&path, text).expect("a temporary file can be written");
    // Its port may be in use here, so it gets a network of its own.
    let output = Command::new("unshare")
        .args(["-n", "nginx", "-t", "-c"])
        .arg(&path)
        .output()
        .expect("unshare is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nginx -t says:\n{said}");
}

#[test]
fn the_demo_ends_as_shown() {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--example", "demo"])
        .current_dir(root())
        .output()
        .expect("cargo can be run");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
    let said = without_numbers(&String::from_utf8_lossy(&output.stdout));
    let shown = blocks("text");
    let shown = shown.iter().find(|block| block.starts_with("socket"));
    let shown = without_numbers(shown.expect("README shows what the demo says"));
    assert!(said.contains(&shown), "{said:#?}\nREADME: {shown:#?}");
}

/// The words of each line, with `N` for what differs from run to run: ports, the
/// figures of two paths, and tokens, of which each is said by the kernel, and some
/// are in the log as well.
fn without_numbers(text: &str) -> String {
    let words = text.split_whitespace();
    let tokens: Vec<_> = words
        .filter_map(|word| word.strip_prefix("token:"))
        .collect();
    let part = |part: &str| match part.rsplit_once(':') {
        Some((what @ ("127.0.0.1" | "127.0.0.2" | "token"), _)) => format!("{what}:N"),
        _ if tokens.contains(&part) => "N".into(),
        _ => part.into(),
    };
    let word = |word: &str| match word.split_once(',') {
        Some((one, other)) if one.parse::<f64>().is_ok() && other.parse::<f64>().is_ok() => {
            "N,N".into()
        }
        Some((one, other)) => format!("{},{}", part(one), part(other)),
        None => part(word),
    };
    let line = |line: &str| {
        line.split_whitespace()
            .map(word)
            .collect::<Vec<_>>()
            .join(" ")
    };
    text.lines().map(|text| line(text) + "\n").collect()
}

/// A temporary folder, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("ngx-rs-listen-readme-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a temporary folder can be made");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It is only temporary.
        let _ = fs::remove_dir_all(&self.0);
    }
}
