//! What `make module` makes, and what it says when it cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn module() -> PathBuf {
    let module = root().join("target/nginx/ngx_stream_rs_listen_module.so");
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

/// A program that says it is nginx of some version.
fn nginx_of_version(version: &str) -> PathBuf {
    let path = folder(version).join("nginx");
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

#[test]
fn module_is_small_stands_alone_and_hides_the_library() {
    let module = module();
    let size = fs::metadata(&module).expect("it is there").len();
    assert!(size < 700 * 1024, "{size} bytes");
    assert_eq!(
        symbols(&module),
        [
            "ngx_module_names",
            "ngx_module_order",
            "ngx_modules",
            "ngx_stream_rs_listen_module",
            "ngx_stream_rs_sockets_module",
        ]
    );
    let output = Command::new("readelf").arg("-d").arg(&module).output();
    let output = output.expect("readelf is missing: install binutils");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("(NEEDED)") && !text.contains("libngx_rs_listen"));
}

#[test]
fn headers_of_another_version_are_refused() {
    let said = refusal(&[
        ("NGINX", &nginx_of_version("1.20.2")),
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
    let nginx = nginx_of_version("1.22.1");
    let said = refusal(&[("NGINX", &nginx), ("NGINX_SOURCE", Path::new("/nowhere"))]);
    assert!(
        said.contains("/nowhere") && said.contains("nginx-dev"),
        "{said}"
    );
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
    let module = out.join("ngx_stream_rs_listen_module.so");
    assert_eq!(symbols(&module), symbols(&self::module()));
}
