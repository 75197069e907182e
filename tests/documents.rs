//! Checks the documents: their commands exist, and those that configure the network run; links
//! have targets; nginx accepts the configurations; the parser accepts the parameters; quoted
//! messages are in the sources; the demo ends with the quoted output. tests/names.rs checks the
//! names of files and functions, tests/capi.rs and tests/examples check the programs, and the
//! tests of nginx check what docs/nginx.md states about logs and counters.

use std::fs;
use std::path::Path;
use std::process::Command;

use ngx_rs_listen::parse::{self, Rules};
use test_support::folder::Folder;
use test_support::library::root;
use test_support::namespace;
use test_support::program::Program;

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|_| panic!("{path} can be read"))
}

/// The path of every document.
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

/// The text between backticks outside of blocks. A span may continue in the next line.
fn spans(document: &str) -> Vec<String> {
    let text = read(document);
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    let text = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Every block and every span of every document.
fn code() -> Vec<String> {
    let spans = documents().into_iter().flat_map(|name| spans(&name));
    blocks("sh").into_iter().chain(spans).collect()
}

#[test]
fn each_language_of_blocks_has_its_test() {
    // tests/capi.rs tests c, tests/nginx/status.rs tests promql, and this file tests the others.
    let known = ["c", "diff", "dockerfile", "nginx", "promql", "sh", "text"];
    for document in documents() {
        let text = read(&document);
        let fences = text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("```"));
        for name in fences.step_by(2) {
            assert!(known.contains(&name), "{document}: a block of \"{name}\"");
        }
    }
    assert_eq!(blocks("promql").len(), 1);
}

#[test]
fn make_targets_exist() {
    let makefile = read("Makefile");
    let mut targets = Vec::new();
    for code in code() {
        for line in code.lines() {
            let mut words = line.split_whitespace().peekable();
            // The `make` in `apt install make` is the name of a package.
            while let Some(word) = words.next().filter(|word| *word != "apt") {
                let target = words.peek().filter(|_| word == "make");
                targets.extend(target.map(|target| target.trim_end_matches(';').to_owned()));
            }
        }
    }
    // The commands for containers name a folder with `make -C`.
    targets.retain(|target| target != "-C");
    for target in ["demo", "test", "kernels", "matrix", "soak", "uninstall"] {
        assert!(targets.iter().any(|named| named == target), "{target}");
    }
    for target in targets {
        let rule = format!("\n{target}:");
        assert!(
            makefile.contains(&rule),
            "make {target} is not in the Makefile"
        );
    }
}

fn bash(script: &str) -> std::process::Output {
    let mut bash = Command::new("bash");
    bash.args(["-c", script]).current_dir(root());
    bash.output().expect("bash can be run")
}

#[test]
fn commands_can_be_parsed_and_found() {
    let mut checked = 0;
    for block in blocks("sh") {
        let output = Command::new("bash").args(["-nc", &block]).output();
        let output = output.expect("bash can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{block}");
        let mut quoted = false;
        for line in block.lines() {
            let is_first = !quoted;
            quoted ^= line.matches('\'').count() % 2 == 1;
            if !is_first {
                continue;
            }
            let line = line.split(" #").next().unwrap_or_default();
            for command in line.split(" && ") {
                let mut words = command.split_whitespace();
                let program = words.find(|word| *word != "sudo" && !word.contains('='));
                // tests/examples runs the programs that an earlier command has built.
                let Some(program) = program.filter(|name| !name.starts_with("./")) else {
                    continue;
                };
                let found = bash(&format!("command -v {program}"));
                assert!(found.status.success(), "no {program}: {line}");
                checked += 1;
            }
        }
    }
    assert!(checked > 25, "{checked}");
}

/// Whether a command only queries or configures the network.
fn is_of_network(command: &str) -> bool {
    ["ip mptcp ", "ss -", "nstat "]
        .iter()
        .any(|begin| command.starts_with(begin))
}

/// Runs commands in a new network namespace that has a second link.
fn with_second_link(commands: &str) -> String {
    let script = format!(
        "set -e\nip link set lo up\nip link add eth1 type veth peer name far\n\
         ip link set eth1 up\n{commands}"
    );
    let output = Command::new("unshare")
        .args(["-n", "bash", "-c", &script])
        .output()
        .expect("unshare is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "{said}\n{commands}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn commands_of_the_network_run() {
    let mut ran = 0;
    for code in code() {
        let lines = code.lines().map(str::trim);
        let commands: Vec<_> = lines.filter(|line| is_of_network(line)).collect();
        // A command with an ellipsis is incomplete.
        if commands.is_empty() || code.contains('…') {
            continue;
        }
        let commands = commands.join("\n");
        let commands = commands.replace("ADDRESS", "192.0.2.2");
        with_second_link(&commands.replace("DEVICE", "eth1"));
        ran += 1;
    }
    assert!(ran >= 6, "{ran}");
}

#[test]
fn counters_and_defaults_are_those_of_the_kernel() {
    let counters = with_second_link("nstat -az 'MPTcp*'");
    let mut checked = 0;
    for document in documents() {
        for word in read(&document).split(|c: char| !c.is_ascii_alphanumeric()) {
            if word.starts_with("MPTcpExt") {
                let is_there = counters.split_whitespace().any(|counter| counter == word);
                assert!(is_there, "{document}: no counter {word}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 3, "{checked}");
    assert!(read("docs/nginx.md").contains("The default of `add_addr_accepted` is 0."));
    let limits = with_second_link("ip mptcp limits show");
    assert!(limits.contains("add_addr_accepted 0 "), "{limits}");
}

#[test]
fn the_changed_line_is_accepted() {
    let blocks = blocks("diff");
    let [block] = &blocks[..] else {
        panic!("one block: {blocks:?}");
    };
    let line = |sign| {
        let line = block.lines().find_map(|line| line.strip_prefix(sign));
        line.expect("a line").trim().to_owned()
    };
    assert_eq!(line('-').replace(';', " mptcp;"), line('+'));
    let words = line('+').replace("listen ", "").replace(';', "");
    let words: Vec<_> = words.split_whitespace().map(str::as_bytes).collect();
    let rules = Rules::default();
    parse::listen(&words, &rules).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn images_get_the_module_of_their_nginx() {
    let blocks = blocks("dockerfile");
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let argument = |name: &str| {
            let mut words = block.split_whitespace();
            let value = words.find_map(|word| word.strip_prefix(name));
            value.unwrap_or_else(|| panic!("no {name} in:\n{block}"))
        };
        let version = argument("VERSION=");
        let images: Vec<_> = block
            .lines()
            .filter_map(|line| {
                line.strip_prefix("FROM ")
                    .or(line.strip_prefix("COPY --from="))
            })
            .filter(|image| image.contains("nginx:") || image.contains("openresty:"))
            .collect();
        assert_eq!(images.len(), 2, "{block}");
        for image in images {
            assert!(image.contains(&format!(":{version}-bookworm")), "{block}");
        }
        let (from, _) = block
            .split_once("COPY --from=build ")
            .and_then(|(_, line)| line.split_once(' '))
            .expect("a module");
        let module = from.strip_prefix(argument("OUT=")).expect("what was built");
        let built = root()
            .join("target/nginx")
            .join(module.trim_start_matches('/'));
        assert!(built.is_file(), "{} is missing", built.display());
        let source = argument("NGINX_SOURCE=");
        assert!(block.contains(&format!("-C {source} ")), "{block}");
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

/// The sources of the library and of the modules, without comments and without line breaks
/// inside of literals.
fn sources() -> String {
    let mut sources = String::new();
    let mut folders = vec![root().join("src"), root().join("nginx-module")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            match path.extension().and_then(|name| name.to_str()) {
                _ if path.is_dir() => folders.push(path),
                Some("rs" | "c") => sources += &fs::read_to_string(path).expect("a source"),
                _ => {}
            }
        }
    }
    let is_code = |line: &&str| {
        let line = line.trim_start();
        !["//", "/*", "*"]
            .iter()
            .any(|begin| line.starts_with(begin))
    };
    let lines = sources.lines().filter(is_code).collect::<Vec<_>>();
    let sources = lines.join("\n");
    let mut parts = sources.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start())
}

/// The parts of a message without its values. Values are names in quotation marks, addresses,
/// numbers and ellipses.
fn fixed_parts(message: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for (number, text) in message.split('"').enumerate() {
        for word in text.split_inclusive(' ').filter(|_| number % 2 == 0) {
            if word.contains('…') || word.starts_with(|c: char| c.is_ascii_digit()) {
                parts.push(String::new());
            } else {
                parts.last_mut().expect("one").push_str(word);
            }
        }
        parts.push(String::new());
    }
    let parts = parts.iter().map(|part| part.trim().to_owned());
    parts.filter(|part| part.len() > 2).collect()
}

#[test]
fn messages_are_those_of_the_sources() {
    // The tests of nginx check the messages of nginx and of the dynamic loader.
    let of_others = [
        "the duplicate \"",
        "undefined symbol: ",
        "module \"",
        "bind() to ",
        "ngx_mail_",
    ];
    let sources = sources();
    let manual = read("docs/nginx.md");
    let (_, table) = manual.split_once("\n## Errors\n").expect("the section");
    let rows = table.lines().take_while(|line| !line.starts_with("## "));
    let cells = rows.filter_map(|row| row.strip_prefix("| ")?.split(" | ").next());
    let table: Vec<_> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    assert!(table.len() >= 18, "{table:?}");
    let shown = blocks_of("docs/nginx.md", "text");
    // The other texts are samples, and no messages.
    let shown = shown
        .into_iter()
        .filter(|block| !block.starts_with(|c: char| c.is_ascii_digit()));
    for message in table.into_iter().chain(shown) {
        if of_others.iter().any(|begin| message.starts_with(begin)) {
            continue;
        }
        let parts = fixed_parts(&message);
        assert!(!parts.is_empty(), "{message}");
        for part in parts {
            // The name of the protocol may be a value too.
            let is_piece =
                |piece: &str| piece.is_empty() || piece.len() > 7 && sources.contains(piece);
            let is_said = sources.contains(&part) || part.split("MPTCP").all(is_piece);
            assert!(is_said, "\"{part}\" of \"{message}\" is in no source");
        }
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
    let folder = Folder::new("documents").expect("a temporary folder can be made");
    let path = folder.join("nginx.conf");
    let pid = folder.join("nginx.pid");
    let text = format!("pid {};\nerror_log stderr;\n{text}", pid.display());
    let text = text.replace("/var/log/nginx/", &format!("{}/", folder.display()));
    fs::write(&path, &text).expect("a temporary file can be written");
    let program = Program::find().unwrap_or_else(|missing| panic!("{missing}"));
    let mut command = Command::new(program.nginx);
    command.arg("-t").arg("-c").arg(&path);
    // The port may be in use on this machine, so nginx runs in a new network namespace.
    let output = namespace::run(|| command.output().expect("nginx can be run"));
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

/// The words of each line, with `N` for values that differ between runs: ports, the numbers of
/// two paths, and tokens.
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
