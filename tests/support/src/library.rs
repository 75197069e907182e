//! The library that other programs link, and the folders of the repository.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The folder of the repository.
pub fn root() -> &'static Path {
    let support = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = support.ancestors().nth(2);
    root.expect("this package is in tests/support")
}

/// The folder in which cargo builds, usually `target`.
pub fn target() -> &'static Path {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET.get_or_init(|| {
        let program = env::current_exe().expect("/proc is mounted");
        // target/PROFILE/deps/PROGRAM, or target/PROFILE/examples/PROGRAM.
        let target = program.ancestors().nth(3);
        target.expect("cargo has built this program").into()
    })
}

/// Builds `libngx_rs_listen.so` and `libngx_rs_listen.a` in release mode, and returns their
/// folder.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut build = Command::new(cargo);
        // The same command as in `make build`.
        build.args(["rustc", "--quiet", "--release", "--lib"]);
        build.args(["--crate-type", "cdylib,staticlib", "--target-dir"]);
        run(build.arg(target()).current_dir(root()));
        target().join("release")
    })
}

/// Runs a command that has to succeed, and returns its output.
pub fn run(command: &mut Command) -> String {
    let name = command.get_program().to_owned();
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{name:?} is needed: {error}"));
    let Output { status, stdout, .. } = &output;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(stdout).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    stdout
}
