//! What `make module` makes, and what it says when it cannot.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

const SUBSYSTEMS: [&str; 3] = ["stream", "http", "mail"];

fn file(subsystem: &str) -> String {
    format!("ngx_{subsystem}_rs_listen_module.so")
}

fn module(subsystem: &str) -> PathBuf {
    let module = root().join("target/nginx").join(file(subsystem));
    assert!(
        module.is_file(),
        "the module is missing: run \"make module\""
    );
    module
}

/// A folder below target/, emptied.
fn folder(name: &str) -> PathBuf {
    let folder = root().join("target/test-module").join(name);
    // It may not be there yet.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder can be made below target/");
    folder
}

fn build(variables: &[(&str, &Path)]) -> Output {
    Command::new(root().join("nginx-module/build.sh"))
        .envs(variables.iter().copied())
        .current_dir(root())
        .output()
        .expect("build.sh can be run")
}

/// The message of a build that has to fail.
fn refusal(variables: &[(&str, &Path)]) -> String {
    let output = build(variables);
    assert!(!output.status.success(), "the build has to fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program that says it is nginx of some version, for the test of this name.
fn nginx_of_version(version: &str, test: &str) -> PathBuf {
    let path = folder(&format!("{version}-{test}")).join("nginx");
    let script = format!("#!/bin/sh\necho 'nginx version: nginx/{version}' >&2\n");
    fs::write(&path, script).expect("a script can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .expect("a script can be made one");
    path
}

/// The dynamic symbols that the module defines.
fn symbols(module: &Path) -> Vec<String> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(module)
        .output()
        .expect("nm is missing: install binutils");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut names: Vec<_> = text
        .lines()
        .filter_map(|line| line.split(' ').next_back())
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// What nginx looks for in a module, and nothing of the library.
fn wanted(subsystem: &str) -> Vec<String> {
    // mail has no variables
    let parts = match subsystem {
        "mail" => &["listen", "sockets"][..],
        _ => &["listen", "sockets", "variables"],
    };
    let own = parts
        .iter()
        .map(|part| format!("ngx_{subsystem}_rs_{part}_module"));
    let nginx = ["ngx_module_names", "ngx_module_order", "ngx_modules"];
    let mut names: Vec<_> = nginx.map(str::to_owned).into_iter().chain(own).collect();
    names.sort();
    names
}

#[test]
fn modules_are_small_stand_alone_and_hide_the_library() {
    for module in SUBSYSTEMS {
        let path = self::module(module);
        let size = fs::metadata(&path).expect("it is there").len();
        assert!(size < 700 * 1024, "{module}: {size} bytes");
        assert_eq!(symbols(&path), wanted(module));
        let output = Command::new("readelf").arg("-d").arg(&path).output();
        let output = output.expect("readelf is missing: install binutils");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("(NEEDED)") && !text.contains("libngx_rs_listen"));
    }
}

#[test]
fn headers_of_another_version_are_refused() {
    let said = refusal(&[
        ("NGINX", &nginx_of_version("1.20.2", "refused")),
        ("OUT", &folder("refused")),
    ]);
    for part in [
        "1.20.2",
        "install nginx-dev of version 1.20.2",
        "NGINX_SOURCE",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn missing_nginx_is_named() {
    let said = refusal(&[("NGINX", Path::new("/nowhere/nginx"))]);
    assert!(said.contains("/nowhere/nginx"), "{said}");
}

#[test]
fn missing_source_is_named() {
    let nginx = nginx_of_version("1.22.1", "source");
    let said = refusal(&[("NGINX", &nginx), ("NGINX_SOURCE", Path::new("/nowhere"))]);
    assert!(
        said.contains("/nowhere") && said.contains("nginx-dev"),
        "{said}"
    );
}

/// The one that this nginx has says nothing of stream or mail.
#[test]
fn subsystems_that_nginx_lacks_get_no_module() {
    let source = root().join("target/nginx-static/source");
    assert!(
        source.is_dir(),
        "its source is missing: run \"make static\""
    );
    let out = folder("lacking");
    let nginx = nginx_of_version("1.22.1", "lacking");
    let output = build(&[("NGINX", &nginx), ("NGINX_SOURCE", &source), ("OUT", &out)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let files = fs::read_dir(&out).expect("it is there");
    let names = files.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let modules: Vec<_> = names.filter(|name| name.ends_with(".so")).collect();
    assert_eq!(modules, [file("http")]);
}

/// nginx's own source, and its own `--add-dynamic-module`.
#[test]
fn full_source_will_do() {
    let built = root().join("target/nginx-static");
    let (nginx, source) = (built.join("nginx"), built.join("source"));
    assert!(
        nginx.is_file(),
        "the linked nginx is missing: run \"make static\""
    );
    let out = folder("full");
    let relative = out.strip_prefix(root()).expect("it is below the root");
    // A running nginx may have the file mapped that is there already.
    fs::write(out.join(file("stream")), "mapped").expect("a file can be written");
    let mapped = File::open(out.join(file("stream"))).expect("it is there");
    let output = build(&[
        ("NGINX", &nginx),
        ("NGINX_SOURCE", &source),
        ("OUT", relative),
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for module in SUBSYSTEMS {
        assert_eq!(symbols(&out.join(file(module))), wanted(module));
    }
    let text = std::io::read_to_string(mapped).expect("it is open");
    assert_eq!(text, "mapped", "the old file is replaced, not written to");
}
