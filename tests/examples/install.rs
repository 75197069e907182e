//! `make install` and `make uninstall`.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use test_support::library;

/// A new folder for one test.
pub fn folder(name: &str) -> PathBuf {
    test_support::folder::lasting(&format!("examples-{name}"))
}

fn make(words: &[&str]) {
    let mut make = Command::new("make");
    library::run(make.arg("-s").args(words).current_dir(library::root()));
}

/// The folder in which the library is installed for all tests. It has the folders lib and
/// include.
pub fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let folder = folder("prefix");
        make(&["install", &format!("PREFIX={}", folder.display())]);
        folder
    })
}

/// All files below a folder, sorted. Symbolic links are listed with their targets.
fn files(folder: &Path) -> Vec<String> {
    let mut find = Command::new("find");
    find.arg(folder)
        .args(["!", "-type", "d", "-printf", "%P %m %l\n"]);
    let found = library::run(&mut find);
    let mut files: Vec<_> = found.lines().map(|line| line.trim_end().into()).collect();
    files.sort();
    files
}

#[test]
fn installs_what_cargo_c_installs_and_removes_it() {
    let folder = folder("install");
    let words = [
        &format!("DESTDIR={}", folder.display()),
        "PREFIX=/opt/mptcp",
        "LIBDIR=/opt/mptcp/lib/somewhere",
    ];
    make(&[&["install"], &words[..]].concat());
    // The same rule for the version in the soname as in tests/abi/exports.rs.
    let full = concat!("libngx_rs_listen.so.", env!("CARGO_PKG_VERSION"));
    let abi = match env!("CARGO_PKG_VERSION_MAJOR") {
        "0" => concat!("0.", env!("CARGO_PKG_VERSION_MINOR")),
        major => major,
    };
    let lib = "opt/mptcp/lib/somewhere";
    let wanted = [
        "opt/mptcp/include/ngx_rs_listen.h 644".to_owned(),
        format!("{lib}/libngx_rs_listen.a 644"),
        format!("{lib}/libngx_rs_listen.so 777 {full}"),
        format!("{lib}/libngx_rs_listen.so.{abi} 777 {full}"),
        format!("{lib}/{full} 755"),
        format!("{lib}/pkgconfig/ngx_rs_listen.pc 644"),
        "opt/mptcp/share/man/man3/ngx_rs_listen.3 644".to_owned(),
        "opt/mptcp/share/man/man5/ngx_rs_listen.5 644".to_owned(),
    ];
    assert_eq!(files(&folder), wanted);

    let config = folder.join(lib).join("pkgconfig/ngx_rs_listen.pc");
    let config = fs::read_to_string(config).expect("it is there");
    for line in [
        "prefix=/opt/mptcp",
        "libdir=${prefix}/lib/somewhere",
        "Libs: -L${libdir} -lngx_rs_listen",
        "Cflags: -I${includedir}",
        concat!("Version: ", env!("CARGO_PKG_VERSION")),
        concat!("Description: ", env!("CARGO_PKG_DESCRIPTION")),
    ] {
        assert!(
            config.lines().any(|found| found == line),
            "{line}: {config}"
        );
    }
    same_as_cargo_c(&folder);
    make(&[&["uninstall"], &words[..]].concat());
    assert_eq!(files(&folder), [""; 0]);
}

/// Checks that `cargo cinstall`, if it is available, installs the same files as `make install`
/// has installed in `made`: with the same names, modes, links and texts.
fn same_as_cargo_c(made: &Path) {
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|folder| folder.join("cargo-cinstall").exists()) {
        // This is visible in each run, because the test harness captures only println!().
        let said = writeln!(
            io::stderr(),
            "make install was not compared with cargo cinstall: there is no cargo-c"
        );
        return said.expect("stderr can be written");
    }
    let folder = folder("cargo-c");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let target = target.expect("target/tmp is in target");
    let mut cargo = Command::new("cargo");
    cargo.args(["cinstall", "--release", "--locked"]);
    cargo.args(["--prefix=/opt/mptcp", "--libdir=/opt/mptcp/lib/somewhere"]);
    cargo.arg("--destdir").arg(&folder);
    cargo.arg("--target-dir").arg(target);
    library::run(cargo.current_dir(library::root()));
    assert_eq!(files(made), files(&folder));
    for name in [
        "include/ngx_rs_listen.h",
        "lib/somewhere/pkgconfig/ngx_rs_listen.pc",
    ] {
        let read = |folder: &Path| fs::read_to_string(folder.join("opt/mptcp").join(name));
        let (ours, theirs) = (read(made), read(&folder));
        assert_eq!(ours.expect("it is there"), theirs.expect("it is there"));
    }
}
