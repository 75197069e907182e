//! Checks the manual pages: mandoc accepts them; they describe each function, parameter,
//! directive and variable; their prototypes are those of the header; their examples work.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use ngx_rs_listen::parse::{self, Owner, Subsystem};
use test_support::{folder, library, namespace};

const FUNCTIONS: &str = "docs/man/ngx_rs_listen.3";
const CONFIGURATION: &str = "docs/man/ngx_rs_listen.5";

fn read(path: &str) -> String {
    fs::read_to_string(library::root().join(path))
        .unwrap_or_else(|error| panic!("{path} can be read: {error}"))
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The arguments of a macro, in all lines that begin with it.
fn arguments<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let lines = page.lines();
    let found = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.collect()
}

/// The literal displays of a page, in the form that a reader sees.
fn displays(page: &str) -> Vec<String> {
    let parts = page.split("\n.Bd -literal").skip(1);
    let inner = parts.map(|part| {
        let (_, part) = part.split_once('\n').expect("a display has lines");
        let (text, _) = part.split_once("\n.Ed\n").expect("a display ends");
        format!("{}\n", text.replace("\\e", "\\"))
    });
    inner.collect()
}

/// The texts between the quotation marks of `before"..."`.
fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    let parts = text.split(before).skip(1);
    let inner = parts.map(|part| part.split_once('"').expect("a literal ends").0);
    inner.collect()
}

/// The sources of the modules for nginx.
fn module_sources() -> String {
    let folder = library::root().join("nginx-module");
    let files = fs::read_dir(folder).expect("nginx-module is there");
    let paths = files.map(|file| file.expect("it can be listed").path());
    let sources = paths.filter(|path| path.extension().is_some_and(|name| name == "c"));
    let texts = sources.map(|path| fs::read_to_string(path).expect("it can be read"));
    texts.collect()
}

#[test]
fn mandoc_accepts_both() {
    for page in [FUNCTIONS, CONFIGURATION] {
        let output = Command::new("mandoc")
            .args(["-T", "lint", page])
            .current_dir(library::root())
            .output()
            .expect("mandoc is installed");
        let said = String::from_utf8_lossy(&output.stdout);
        // Ignored, because other manual pages may not be installed on this machine.
        let about_ours = |line: &&str| !line.contains("referenced manual not found");
        let problems: Vec<_> = said.lines().filter(about_ours).collect();
        assert!(problems.is_empty(), "{problems:#?}");
    }
}

#[test]
fn each_prototype_is_that_of_the_header() {
    let header = words(&read("include/ngx_rs_listen.h"));
    let page = read(FUNCTIONS);
    let (_, synopsis) = page
        .split_once(".Sh SYNOPSIS\n")
        .expect("there is a synopsis");
    let (synopsis, text) = synopsis
        .split_once("\n.Sh DESCRIPTION\n")
        .expect("there is a description");
    let mut shown = BTreeSet::new();
    for part in synopsis.split("\n.Ft ").skip(1) {
        let result = part.lines().next().expect("a type");
        let name = arguments(part, ".Fo")[0];
        let types = arguments(part, ".Fa");
        let types: Vec<_> = types.iter().map(|text| text.trim_matches('"')).collect();
        let prototype = format!("{result} {name}({});", types.join(", "));
        assert!(
            header.contains(&prototype),
            "not in the header: {prototype}"
        );
        shown.insert(name);
    }
    let is_name = |name: &&str| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let exported: BTreeSet<_> = header
        .split(&[' ', '*'])
        .filter_map(|word| word.split_once('('))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("ngx_rs_"))
        .filter(is_name)
        .collect();
    assert_eq!(shown, exported);
    let named: BTreeSet<_> = arguments(&page, ".Nm")
        .iter()
        .map(|line| line.trim_end_matches(" ,"))
        .filter(|name| *name != "ngx_rs_listen")
        .collect();
    assert_eq!(named, exported, "the names of the page");
    for name in exported {
        let described = arguments(text, ".Fn");
        let is_described = described
            .iter()
            .any(|line| line.split(' ').next() == Some(name));
        assert!(is_described, "{name} is not described");
    }
}

#[test]
fn each_error_and_initializer_is_described() {
    let page = read(FUNCTIONS);
    let header = read("include/ngx_rs_listen.h");
    let constants: BTreeSet<_> = header
        .split(|byte: char| !byte.is_ascii_alphanumeric() && byte != '_')
        .filter(|word| {
            word.starts_with("NGX_RS_ERR_")
                || word.starts_with("NGX_RS_") && word.ends_with("_INIT")
        })
        .filter(|word| *word != "NGX_RS_ERR_")
        .collect();
    assert!(constants.len() > 12, "{constants:?}");
    for constant in constants {
        let shown = page
            .lines()
            .any(|line| line.contains("Dv ") && line.split(' ').any(|word| word == constant));
        assert!(shown, "{constant} is not described");
    }
}

#[test]
fn each_parameter_is_described() {
    let source = read("src/parse/mod.rs");
    let page = words(&read(CONFIGURATION)).replace(" Ns = Ns Cm ", "=");
    let page = page.replace(" Ns = Ns Ar ", "=");
    let ours = |word: &str| {
        [Subsystem::Stream, Subsystem::Http, Subsystem::Mail]
            .into_iter()
            .any(|subsystem| parse::owner(word.as_bytes(), subsystem) == Owner::Ours)
    };
    let parameters: BTreeSet<_> = quoted(&source, "(b\"")
        .into_iter()
        .filter(|word| ours(word))
        .collect();
    assert!(parameters.contains("mptcp") && parameters.contains("protocol="));
    for parameter in parameters {
        let shown = page
            .split(' ')
            .any(|word| match parameter.strip_suffix('=') {
                Some(_) => word.starts_with(parameter),
                None => word == parameter,
            });
        assert!(shown, "{parameter} is not described");
    }
}

#[test]
fn each_directive_and_variable_is_described() {
    let page = read(CONFIGURATION);
    let sources = module_sources();
    let tagged = |name: &str| {
        let mut tags = arguments(&page, ".It").into_iter();
        tags.any(|tag| match tag.strip_prefix("Va ") {
            Some(variables) => variables.split(" , ").any(|variable| variable == name),
            None => tag
                .strip_prefix("Ic ")
                .is_some_and(|tag| tag.split(' ').next() == Some(name)),
        })
    };
    let mut found = BTreeSet::new();
    for part in sources.split("{ ngx_string(\"").skip(1) {
        let (name, rest) = part.split_once("\"),").expect("a literal ends");
        found.insert(match rest.trim_start().starts_with("NGX_RS_VALUE_") {
            true => format!("${name}"),
            false => name.to_owned(),
        });
    }
    // This variable has no row in a table of the sources.
    if sources.contains("= ngx_string(\"upstream_mptcp\")") {
        found.insert("$upstream_mptcp".into());
    }
    let all_kinds = ["listen", "mptcp_status", "$mptcp", "$mptcp_subflow_rtt"];
    assert!(
        all_kinds.iter().all(|name| found.contains(*name)),
        "{found:?}"
    );
    for name in found {
        // The page describes only the parameters of "listen", because the directive is
        // nginx's.
        let described = tagged(&name) || name == "listen" && page.contains("\n.Ql listen\n");
        assert!(described, "{name} is not described");
    }
}

#[test]
fn the_program_runs() {
    let folder = folder::lasting("man-program");
    let [program] = &displays(&read(FUNCTIONS))[..] else {
        panic!("the page has one program");
    };
    fs::write(folder.join("program.c"), program).expect("it can be written");
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    cc.arg("-I").arg(library::root().join("include"));
    cc.args(["-o", "program", "program.c"]);
    cc.arg(library::folder().join("libngx_rs_listen.a"));
    library::run(cc.args(["-lpthread", "-ldl", "-lm"]).current_dir(&folder));
    let said = namespace::run(|| library::run(&mut Command::new(folder.join("program"))));
    assert_eq!(said.matches(" listens\n").count(), 4, "{said}");
}

#[test]
fn nginx_accepts_the_examples() {
    let module = library::root().join("target/nginx/ngx_http_rs_listen_module.so");
    assert!(module.is_file(), "run \"make module\" first");
    let [server, log] = &displays(&read(CONFIGURATION))[..] else {
        panic!("the page has a server and a log");
    };
    let folder = folder::lasting("man-nginx");
    let place = |name: &str| folder.join(name).display().to_string();
    let text = server
        .replace("http {", &format!("http {{\n{log}"))
        .replace(
            "modules/ngx_http_rs_listen_module.so",
            &module.display().to_string(),
        )
        .replace("/var/log/nginx/access.log", &place("access.log"));
    let text = format!(
        "pid {};\nerror_log stderr;\nevents {{ }}\n{text}",
        place("pid")
    );
    // "load_module" has to precede all blocks.
    let (first, rest) = text.split_once("events { }\n").expect("as written above");
    let (load, rest) = rest.split_once('\n').expect("a line that loads the module");
    fs::write(
        folder.join("nginx.conf"),
        format!("{load}\n{first}events {{ }}\n{rest}"),
    )
    .expect("it can be written");
    namespace::run(|| library::run(Command::new("nginx").args(["-t", "-c", &place("nginx.conf")])));
}
