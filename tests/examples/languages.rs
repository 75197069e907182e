//! Builds and runs each example with the commands of docs/library.md.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use crate::documented::{
    Program, beside_examples, commands, prints_paths_of_reset_connections, serves, two_paths,
};
use crate::install::{folder, prefix};
use test_support::{library, namespace};

/// Builds and runs an example with the commands of docs/library.md, and checks that it serves.
fn check(which: &str, folder: &Path) -> ExitStatus {
    served(&commands(which), folder)
}

fn served(commands: &str, folder: &Path) -> ExitStatus {
    namespace::run(|| {
        two_paths();
        let program = Program::start(commands, folder);
        while program.line() != "listening on 4 sockets" {}
        serves(&program);
        program.stop()
    })
}

/// Builds and runs an example, and checks its output for clients that reset their connections.
fn check_resets(which: &str, folder: &Path) {
    let commands = commands(which);
    namespace::run(|| {
        two_paths();
        let program = Program::start(&commands, folder);
        while program.line() != "listening on 4 sockets" {}
        prints_paths_of_reset_connections(&program);
        serves(&program);
        program.stop();
    });
}

#[test]
fn resets() {
    check_resets(
        "-std=c99 -o echo examples/echo.c",
        &beside_examples("resets"),
    );
    check_resets("cargo run --example echo", library::root());
}

/// The shared libraries that a program needs.
fn needed(program: &Path) -> String {
    library::run(Command::new("readelf").args(["-d", "-W"]).arg(program))
}

#[test]
fn c() {
    let folder = beside_examples("c");
    let ended = check("-std=c99 -o echo examples/echo.c", &folder);
    assert_eq!(ended.code(), Some(0));
    assert!(needed(&folder.join("echo")).contains("[libngx_rs_listen.so."));
}

/// The sanitizers check for memory errors, leaks and undefined behaviour. Each of these changes
/// the exit status of the program.
#[test]
fn c_with_sanitizers() {
    let commands = commands("-std=c99 -o echo examples/echo.c");
    let watching = "cc -g -fsanitize=address,undefined -fno-sanitize-recover=all -std";
    let commands = commands.replace("cc -std", watching);
    assert!(commands.contains(watching), "{commands}");
    let ended = served(&commands, &beside_examples("sanitized"));
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn c_with_the_static_library() {
    let folder = beside_examples("static");
    let ended = check("--static", &folder);
    assert_eq!(ended.code(), Some(0));
    assert!(!needed(&folder.join("echo")).contains("libngx_rs_listen"));
}

#[test]
fn cxx() {
    let ended = check("examples/echo.cc", &beside_examples("cxx"));
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn python() {
    let ended = check("examples/echo.py", &beside_examples("python"));
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn go() {
    let ended = check("examples/echo.go", &beside_examples("go"));
    assert_eq!(ended.code(), Some(0));
}

/// The program has no handler for SIGTERM, so the signal ends it.
#[test]
fn rust() {
    let ended = check("cargo run --example echo", library::root());
    assert_eq!(ended.signal(), Some(libc::SIGTERM));
}

/// Compiles with all warnings as errors.
#[test]
fn all_standards_of_c_and_cxx() {
    let folder = folder("standards");
    let flags = "-Wall -Wextra -Wpedantic -Werror -c -o object.o";
    let newest = ["c23", "c2x"].into_iter().find(|name| {
        let mut probe = Command::new("cc");
        probe.args([&format!("-std={name}"), "-E", "-x", "c", "/dev/null"]);
        probe.output().is_ok_and(|output| output.status.success())
    });
    let c = ["c99", "c11", "c17"].into_iter().chain(newest);
    let cxx = ["c++11", "c++14", "c++17", "c++20"];
    for (compiler, standard, example) in c
        .map(|standard| ("cc", standard, "echo.c"))
        .chain(cxx.map(|standard| ("c++", standard, "echo.cc")))
    {
        let source = library::root().join("examples").join(example);
        let mut command = Command::new(compiler);
        command.arg(format!("-std={standard}"));
        command.args(flags.split(' ')).arg(source).arg("-I");
        command.arg(prefix().join("include")).current_dir(&folder);
        library::run(&mut command);
    }
    assert!(newest.is_some(), "the compiler knows no C23");
}

#[test]
fn examples_are_short() {
    for (name, lines) in [
        ("echo.cc", 110),
        ("echo.py", 110),
        ("echo.go", 110),
        ("echo.rs", 110),
        ("echo.c", 310),
    ] {
        let text = fs::read_to_string(library::root().join("examples").join(name));
        let count = text.expect("it is there").lines().count();
        assert!(count < lines, "{name} has {count} lines");
    }
}
