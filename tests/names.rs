//! The files, functions and constants that the documents name exist.

use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 7] = [
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/architecture.md",
    "docs/benchmarks.md",
    "docs/library.md",
    "docs/nginx.md",
];

/// The folders of the repository with which a path may begin.
const FOLDERS: [&str; 11] = [
    ".ci/",
    "benches/",
    "debian/",
    "docs/",
    "examples/",
    "fuzz/",
    "include/",
    "nginx-module/",
    "src/",
    "tests/",
    "tools/",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The texts between backticks, outside of code blocks.
fn terms(text: &str) -> Vec<String> {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    // A term may continue in the next line.
    let text = lines.collect::<Vec<_>>().join(" ");
    let parts = text.split('`').skip(1).step_by(2);
    let words = parts.flat_map(str::split_whitespace);
    words.map(str::to_owned).collect()
}

/// All sources below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        match path.extension().and_then(|name| name.to_str()) {
            _ if path.is_dir() => sources(&path, found),
            Some("rs" | "c" | "h") => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn each_file_exists() {
    let mut count = 0;
    for document in DOCUMENTS {
        let text = read(&root().join(document));
        for term in terms(&text) {
            let is_path = FOLDERS.iter().any(|folder| term.starts_with(folder));
            if !is_path || term.contains('{') || term.contains('*') {
                continue;
            }
            let path = term.trim_end_matches([',', '.', ':']);
            assert!(
                root().join(path).exists(),
                "{document}: {path} is not there"
            );
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn each_function_and_constant_is_in_the_sources() {
    let mut paths = Vec::new();
    for folder in ["src", "nginx-module", "include", "tests"] {
        sources(&root().join(folder), &mut paths);
    }
    let sources: String = paths.iter().map(|path| read(path)).collect();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut count = 0;
    for document in DOCUMENTS {
        let text = read(&root().join(document));
        for term in terms(&text) {
            // Functions of nginx and of the kernel are not in these sources.
            let ours = ["ngx_rsm_", "ngx_rs_", "NGX_RS_"];
            let rust = term
                .strip_suffix("()")
                .and_then(|path| path.rsplit_once("::"));
            let name = match rust {
                Some((_, name)) => format!("fn {name}("),
                None if ours.iter().any(|prefix| term.starts_with(prefix)) => {
                    let name = term.split(|c| !is_word(c)).next().unwrap_or_default();
                    // A name with `*` stands for several names, so its common part has to exist.
                    name.trim_end_matches('_').to_owned()
                }
                None => continue,
            };
            // Names of environment variables of tests and scripts, and of files.
            let elsewhere = ["NGX_RS_SOAK", "ngx_rs_listen"];
            if elsewhere.iter().any(|other| name == *other) {
                continue;
            }
            assert!(sources.contains(&name), "{document}: \"{name}\" is nowhere");
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

/// `a_{b,c}_d` as `a_b_d` and `a_c_d`.
fn expanded(term: &str) -> Vec<String> {
    let inner = term.split_once('{').and_then(|(before, rest)| {
        let (names, after) = rest.split_once('}')?;
        Some((before, names, after))
    });
    match inner {
        Some((before, names, after)) => {
            let names = names.split(',');
            names.map(|name| format!("{before}{name}{after}")).collect()
        }
        None => vec![term.to_owned()],
    }
}

#[test]
fn the_map_of_the_modules_is_complete() {
    let text = read(&root().join("docs/architecture.md"));
    let named: Vec<_> = terms(&text)
        .iter()
        .flat_map(|term| expanded(term))
        .collect();
    for folder in ["src", "nginx-module"] {
        for entry in fs::read_dir(root().join(folder)).expect("the folder is there") {
            let path = entry.expect("it can be listed").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            let inside = format!("{name}/");
            // src/lib.rs has no logic, so the map need not list it.
            let is_named = named
                .iter()
                .any(|term| term.trim_end_matches(',') == name || term.starts_with(&inside));
            assert!(
                is_named || name == "lib.rs",
                "the map lacks {folder}/{name}"
            );
        }
    }
}
