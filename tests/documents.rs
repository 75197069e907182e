//! The documents tell the truth: their commands and files exist, their links have
//! targets, their configurations are accepted, their parameters parse, their
//! messages are the library's, and the demo ends as they say. tests/capi.rs and
//! tests/examples run the programs of docs/library.md, and the tests of nginx what
//! docs/nginx.md says of logs and counters.

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

/// Every document, by its path.
fn documents() -> Vec<String> {
    let names = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).expect("the folder is there");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        let names: Vec<_> = names.filter(|name| name.ends_with(".md")).collect();
        names
    };
    let top = names("");
    let docs = names("docs").into_iter().map(|name| format!("docs/{name}"));
    let mut all: Vec<_> = top.into_iter().chain(docs).collect();
    all.sort();
    assert!(all.len() >= 6, "{all:?}");
    all
}

/// The fenced blocks of a language in a document, without their indentation.
fn blocks_of(document: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for line in read(document).lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut block, fence) {
            (None, Some(name)) => {
                let indent = line.len() - line.trim_start().len();
                block = Some((indent, format!("{name}\n")));
            }
            (Some(_), Some("")) => blocks.extend(block.take().map(|block| block.1)),
            (Some((indent, text)), _) => {
                text.push_str(line.get(*indent..).unwrap_or_default());
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    let with_name = format!("{language}\n");
    let blocks = blocks
        .iter()
        .filter_map(|block| block.strip_prefix(&with_name));
    blocks.map(str::to_owned).collect()
}

fn blocks(language: &str) -> Vec<String> {
    let blocks = documents()
        .into_iter()
        .flat_map(|name| blocks_of(&name, language));
    blocks.collect()
}

/// The words between backticks in the first column of the table of parameters.
fn parameters() -> Vec<String> {
    let manual = read("docs/nginx.md");
    let (_, section) = manual
        .split_once("\n## Parameters of the listen directive\n")
        .expect("the manual has the section");
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

/// The name that a link uses for a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
}

fn anchors(document: &str) -> Vec<String> {
    let text = read(document);
    let mut fenced = false;
    let headings = text.lines().filter(|line| {
        fenced ^= line.trim_start().starts_with("```");
        !fenced && line.starts_with('#')
    });
    headings.map(anchor).collect()
}

#[test]
fn links_have_targets() {
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        let folder = Path::new(&document).parent().expect("a folder");
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            if link.starts_with("https://") {
                continue;
            }
            let (file, name) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => folder.join(file).to_string_lossy().into_owned(),
            };
            assert!(root().join(&target).exists(), "{document}: {link}");
            let known = name.is_empty() || anchors(&target).iter().any(|anchor| anchor == name);
            assert!(known, "{document}: {link} is no heading");
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn make_targets_exist() {
    let makefile = read("Makefile");
    let commands = blocks("sh").concat();
    let targets: Vec<_> = commands
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("make "))
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
    let terms = parameters();
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
    let manual = read("docs/nginx.md");
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
        assert!(manual.contains(message), "the manual lacks \"{message}\"");
        let said = message.trim_end_matches('`');
        assert!(sources.contains(said), "\"{message}\" is said nowhere");
    }
}

#[test]
fn configurations_are_accepted() {
    let blocks = blocks("nginx");
    assert!(blocks.len() >= 4, "{blocks:?}");
    for block in blocks {
        accept(&block);
    }
}

/// Checks a whole configuration, or directives of http.
fn accept(block: &str) {
    let built = root().join("target/nginx");
    let modules = ["stream", "http"].map(|name| format!("ngx_{name}_rs_listen_module.so"));
    let mut text = match block.contains("http {") || block.contains("stream {") {
        true => block.to_owned(),
        false => format!("events {{ }}\nhttp {{\n{block}}}\n"),
    };
    if !text.contains("load_module") {
        let load = modules
            .each_ref()
            .map(|name| format!("load_module modules/{name};\n"));
        let load = load.concat();
        text = format!("load_module modules/ngx_stream_module.so;\n{load}{text}");
    }
    for name in modules {
        let module = built.join(&name);
        assert!(module.is_file(), "{name} is missing: run \"make module\"");
        text = text.replace(&format!("modules/{name}"), &module.display().to_string());
    }
    if !text.contains("events") {
        text.push_str("events { }\n");
    }
    let folder = Folder::new();
    let path = folder.0.join("nginx.conf");
    let pid = folder.0.join("nginx.pid");
    let text = format!("pid {};\nerror_log stderr;\n{text}", pid.display());
    let text = text.replace("/var/log/nginx/", &format!("{}/", folder.0.display()));
    fs::write(&path, &text).expect("a temporary file can be written");
    // Its port may be in use here, so it gets a network of its own.
    let output = Command::new("unshare")
        .args(["-n", "nginx", "-t", "-c"])
        .arg(&path)
        .output()
        .expect("unshare is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nginx -t says:\n{said}\n{text}");
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
    let shown = blocks_of("README.md", "text");
    let shown = shown.iter().find(|block| block.starts_with("socket"));
    let shown = without_numbers(shown.expect("README shows what the demo says"));
    assert!(said.contains(&shown), "{said:#?}\nREADME.md: {shown:#?}");
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
        let name = format!("ngx-rs-listen-documents-{}", std::process::id());
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
