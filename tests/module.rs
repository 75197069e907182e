//! The modules that `make module` builds, and its errors.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use test_support::library::root;
use test_support::program::Program;

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

/// An empty folder below target/.
fn folder(name: &str) -> PathBuf {
    let folder = root().join("target/test-module").join(name);
    // Fails if the folder does not exist yet.
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

/// The message of a build that has to fail. The message must name the program and the version
/// that the program prints.
fn refusal(nginx: &Path, is: &str, source: &Path, out: &str) -> String {
    let output = build(&[
        ("NGINX", nginx),
        ("NGINX_SOURCE", source),
        ("OUT", &folder(out)),
    ]);
    assert!(!output.status.success(), "the build has to fail");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let named = format!("{} is {is}", nginx.display());
    assert!(said.contains(&named), "{said}");
    said
}

fn accepted(nginx: &Path, source: &Path, out: &Path) {
    // all builds share one build of the library
    let library = root().join("target/test-module/library");
    fs::create_dir_all(&library).expect("a folder can be made below target/");
    let objects = out.join("build/objs");
    fs::create_dir_all(&objects).expect("a folder can be made below target/");
    symlink(library, objects.join("ngx_rs_listen")).expect("a link can be made");
    let output = build(&[("NGINX", nginx), ("NGINX_SOURCE", source), ("OUT", out)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The modules in a folder, sorted.
fn modules(out: &Path) -> Vec<String> {
    let files = fs::read_dir(out).expect("it is there");
    let names = files.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".so")).collect();
    names.sort();
    names
}

fn program() -> Program {
    Program::find().unwrap_or_else(|missing| panic!("{missing}"))
}

/// The configure options that `nginx -V` prints.
fn options() -> String {
    program().options().to_owned()
}

/// Writes a script that prints another name, version and options and then runs the installed
/// nginx. The bytes of nginx follow the script, because the build searches the file for nginx's
/// signature.
fn fork(name: &str, version: &str, options: &str) -> PathBuf {
    let path = folder(&format!("program-{name}")).join("nginx");
    let real = program().nginx;
    let script = format!(
        "#!/bin/sh\n\
         case $1 in\n\
         -v | -V) cat >&2 << 'END' ;;\n\
         {version}\n\
         configure arguments: {options}\n\
         END\n\
         *) exec {} \"$@\" ;;\n\
         esac\n\
         exit\n",
        real.display()
    );
    let mut bytes = script.into_bytes();
    bytes.extend(fs::read(real).expect("nginx can be read"));
    fs::write(&path, bytes).expect("a script can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .expect("a script can be made one");
    path
}

/// A copy of Debian's headers in the layout of a fork.
fn headers(name: &str, inside: &str) -> PathBuf {
    let tree = folder(&format!("source-{name}"));
    let copy = tree.join(inside);
    fs::create_dir_all(&copy).expect("a folder can be made below target/");
    for part in ["auto", "configure", "src"] {
        let part = Path::new("/usr/share/nginx/src").join(part);
        let copied = Command::new("cp").arg("-r").arg(part).arg(&copy).status();
        assert!(
            copied.is_ok_and(|status| status.success()),
            "the headers are missing: install nginx-dev"
        );
    }
    tree
}

fn replace(file: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(file).expect("it can be read");
    assert!(text.contains(old), "{old} is in {}", file.display());
    fs::write(file, text.replace(old, new)).expect("it can be written");
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

/// The symbols that nginx needs from a module. No symbol of the library is exported.
fn wanted(subsystem: &str) -> Vec<String> {
    // mail has neither variables nor upstreams, and only http sends files
    let parts = match subsystem {
        "mail" => &["listen", "sockets"][..],
        "http" => &[
            "listen",
            "push",
            "sockets",
            "status",
            "upstream",
            "variables",
        ],
        _ => &["listen", "sockets", "upstream", "variables"],
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
    let source = headers("newer", "");
    let header = source.join("src/core/nginx.h");
    let number = "#define nginx_version      ";
    replace(&header, number, &format!("{number}9"));
    replace(&header, "NGINX_VERSION      \"", "NGINX_VERSION      \"9");
    let nginx = fork("newer", "nginx version: nginx/1.2.3", &options());
    let said = refusal(&nginx, "nginx/1.2.3", &source, "newer");
    for part in [
        "has the headers of nginx/91.",
        "install nginx-dev of the same version as nginx/1.2.3",
        "pass the source of nginx/1.2.3 as NGINX_SOURCE",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn another_signature_is_refused() {
    let options = options().replace("--with-compat", "");
    let nginx = fork("signature", "nginx version: nginx/1.2.3", &options);
    let said = refusal(
        &nginx,
        "nginx/1.2.3",
        Path::new("/usr/share/nginx/src"),
        "signature",
    );
    let (_, differ) = said
        .split_once("signatures differ: ")
        .unwrap_or_else(|| panic!("{said}"));
    let (both, _) = differ.split_once(". ").expect("a sentence");
    let (ours, theirs) = both.split_once(" and ").expect("two signatures");
    for signature in [ours, theirs] {
        assert!(signature.ends_with(['0', '1']), "{said}");
    }
    assert_ne!(ours, theirs, "{said}");
}

#[test]
fn options_that_the_source_lacks_are_refused() {
    let nginx = fork("options", "nginx version: nginx/1.2.3", "--with-teapot");
    let source = Path::new("/usr/share/nginx/src");
    let said = refusal(&nginx, "nginx/1.2.3", source, "options");
    assert!(said.contains("\"--with-teapot\""), "{said}");
    assert!(said.contains("has the headers of nginx/1."), "{said}");
}

#[test]
fn missing_nginx_is_named() {
    for program in ["/nowhere/nginx", "/bin/true"] {
        let output = build(&[("NGINX", Path::new(program))]);
        assert!(!output.status.success(), "the build has to fail");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains(program) && said.contains("NGINX=/path/to/nginx"),
            "{said}"
        );
    }
}

#[test]
fn missing_source_is_named() {
    let nginx = fork("source", "Angie version: Angie/1.13.0", "");
    let said = refusal(&nginx, "Angie/1.13.0", Path::new("/nowhere"), "source");
    for part in ["/nowhere", "nginx-dev", "source of Angie/1.13.0"] {
        assert!(said.contains(part), "{said}");
    }
}

/// OpenResty has a version of four numbers, and nginx's source is inside of a bundle with another
/// configure script.
#[test]
fn openresty_and_its_bundle_are_accepted() {
    let version = "nginx version: openresty/1.22.1.3";
    let nginx = fork("openresty", version, &options());
    let source = headers("openresty", "bundle/nginx-1.22.1");
    fs::write(source.join("configure"), "exit 1").expect("a file can be written");
    let out = folder("openresty");
    accepted(&nginx, &source, &out);
    assert_eq!(modules(&out).len(), SUBSYSTEMS.len());
}

/// Angie has another name and version, and a checkout of nginx has configure in auto/.
#[test]
fn angie_and_a_checkout_are_accepted() {
    let version = "Angie version: Angie/1.13.0";
    let nginx = fork("angie", version, &options());
    let source = headers("angie", "");
    let moved = fs::rename(source.join("configure"), source.join("auto/configure"));
    moved.expect("a file can be moved");
    let out = folder("angie");
    accepted(&nginx, &source, &out);
    assert_eq!(modules(&out).len(), SUBSYSTEMS.len());
}

/// This nginx was configured with neither stream nor mail.
#[test]
fn subsystems_that_nginx_lacks_get_no_module() {
    let options = options();
    let kept: Vec<_> = options
        .split(' ')
        .filter(|option| !option.starts_with("--with-stream") && !option.starts_with("--with-mail"))
        .filter(|option| !option.starts_with("--modules-path"))
        .collect();
    let nginx = fork("lacking", "nginx version: nginx/1.22.1", &kept.join(" "));
    let out = folder("lacking");
    accepted(&nginx, Path::new("/usr/share/nginx/src"), &out);
    assert_eq!(modules(&out), [file("http")]);
}

/// A build from nginx's full source, and one with nginx's own `--add-dynamic-module`.
#[test]
fn the_full_source_is_accepted() {
    let built = root().join("target/nginx-static");
    let (nginx, source) = (built.join("nginx"), built.join("source"));
    assert!(
        nginx.is_file(),
        "the linked nginx is missing: run \"make static\""
    );
    let out = folder("full");
    let relative = out.strip_prefix(root()).expect("it is below the root");
    // A running nginx may have mapped the existing file, so the build must not write to it.
    fs::write(out.join(file("stream")), "mapped").expect("a file can be written");
    let mapped = File::open(out.join(file("stream"))).expect("it is there");
    accepted(&nginx, &source, relative);
    for module in SUBSYSTEMS {
        assert_eq!(symbols(&out.join(file(module))), wanted(module));
    }
    let text = std::io::read_to_string(mapped).expect("it is open");
    assert_eq!(text, "mapped", "the old file is replaced, not written to");
}
