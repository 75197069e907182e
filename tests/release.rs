//! `make release-check` finds errors in a release. Each test introduces one error into a copy
//! of the files that the check reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files that the fast checks read.
const FILES: [&str; 12] = [
    "tests/release-check.sh",
    "Cargo.toml",
    "Cargo.lock",
    "fuzz/Cargo.lock",
    "include/ngx_rs_listen.h",
    "ngx_rs_listen.pc.in",
    "tests/abi/list.txt",
    "tests/data/ngx_rs_listen-0.1.h",
    "debian/changelog",
    "debian/control",
    "debian/libngx-rs-listen0.1.install",
    "CHANGELOG.md",
];

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A copy of those files of the repository that the checks read.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("release-{name}"));
        // The folder exists if the test ran before.
        let _ = fs::remove_dir_all(&folder);
        for file in FILES {
            let to = folder.join(file);
            fs::create_dir_all(to.parent().expect("a folder")).expect("target/ can be written");
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            fs::copy(&from, &to).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        let copy = Self(folder);
        copy.git(&["init", "-q"]);
        copy.commit();
        copy
    }

    fn git(&self, words: &[&str]) {
        let identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
        let output = Command::new("git")
            .args(identity)
            .args(words)
            .current_dir(&self.0)
            .output()
            .expect("git is installed");
        assert!(output.status.success(), "git {words:?}: {output:?}");
    }

    fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "a state"]);
    }

    /// Replaces the first `old` in a file.
    fn change(&self, file: &str, old: &str, new: &str) {
        let path = self.0.join(file);
        let text = fs::read_to_string(&path).expect("it can be read");
        assert!(text.contains(old), "{file} has no \"{old}\"");
        fs::write(&path, text.replacen(old, new, 1)).expect("it can be written");
    }

    /// Whether the checks succeed, and their stderr.
    fn check(&self, checks: &[&str]) -> (bool, String) {
        let output = Command::new("bash")
            .arg("tests/release-check.sh")
            .args(checks)
            .current_dir(&self.0)
            .output()
            .expect("bash is installed");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    }

    fn accepts(&self, checks: &[&str]) {
        let (succeeded, said) = self.check(checks);
        assert!(succeeded && said.is_empty(), "{said}");
    }

    fn rejects(&self, check: &str, problem: &str) {
        let (succeeded, said) = self.check(&[check]);
        assert!(!succeeded && said.contains(problem), "{problem}: {said}");
    }
}

#[test]
fn accepts_the_present_state() {
    Copy::new("present").accepts(&["versions", "changelog", "abi"]);
}

#[test]
fn rejects_a_version_that_differs_in_one_file() {
    for (file, old) in [
        (
            "Cargo.lock",
            format!("name = \"ngx-rs-listen\"\nversion = \"{VERSION}\""),
        ),
        (
            "fuzz/Cargo.lock",
            format!("name = \"ngx-rs-listen\"\nversion = \"{VERSION}\""),
        ),
        (
            "include/ngx_rs_listen.h",
            format!("NGX_RS_VERSION \"{VERSION}\""),
        ),
        ("debian/changelog", format!("({VERSION}-")),
        ("CHANGELOG.md", format!("## {VERSION} ")),
    ] {
        let copy = Copy::new("version");
        copy.change(file, &old, &old.replace(VERSION, "0.1.99"));
        copy.rejects(
            "versions",
            &format!("{file} has \"0.1.99\" instead of \"{VERSION}\""),
        );
    }
    let copy = Copy::new("version");
    copy.change("ngx_rs_listen.pc.in", "@VERSION@", "0.1.0");
    copy.rejects("versions", "ngx_rs_listen.pc.in has \"0.1.0\"");
}

#[test]
fn rejects_a_new_version_that_only_cargo_knows() {
    let copy = Copy::new("cargo");
    let old = format!("version = \"{VERSION}\"");
    copy.change("Cargo.toml", &old, "version = \"0.99.0\"");
    let (succeeded, said) = copy.check(&["versions", "changelog"]);
    assert!(!succeeded);
    for part in [
        "Cargo.lock has",
        "ngx_rs_listen.h has",
        "instead of \"99\"",
        "debian/changelog has",
        "instead of \"libngx-rs-listen0.99\"",
        "CHANGELOG.md begins with",
        "tests/data/ngx_rs_listen-0.99.h is missing",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn rejects_a_changelog_without_a_date_or_with_other_sections() {
    let copy = Copy::new("changelog");
    let heading = fs::read_to_string(copy.0.join("CHANGELOG.md")).expect("it can be read");
    let heading = heading.lines().find(|line| line.starts_with("## "));
    let heading = heading.expect("a version").to_owned();
    copy.change("CHANGELOG.md", &heading, &format!("## {VERSION} (soon)"));
    copy.rejects("changelog", "CHANGELOG.md begins with");
    copy.change("CHANGELOG.md", "(soon)", "(2026-12-31)");
    copy.accepts(&["changelog"]);
    copy.change("CHANGELOG.md", "### Added", "### Improved");
    copy.rejects("changelog", "unknown section \"### Improved\"");
    copy.change("CHANGELOG.md", "### Improved", "### Fixed\n\n### Added");
    copy.rejects("changelog", "the section \"Fixed\" is empty");
}

#[test]
fn rejects_a_version_that_is_released_already() {
    let copy = Copy::new("released");
    copy.git(&["tag", &format!("v{VERSION}")]);
    copy.commit();
    copy.rejects("changelog", "is released already: raise the version");
}

#[test]
fn rejects_a_changed_abi_without_a_changed_version() {
    const LIST: &str = "tests/abi/list.txt";
    let copy = Copy::new("abi");
    let released = fs::read_to_string(copy.0.join(LIST)).expect("it can be read");
    copy.git(&["tag", "v0.0.1"]);
    copy.accepts(&["abi"]);

    // A longer struct and a new constant do not break the ABI.
    copy.change(LIST, "NGX_RS_KEPT = 1", "NGX_RS_KEPT = 1\nNGX_RS_NEW = 1");
    copy.accepts(&["abi"]);
    copy.change("CHANGELOG.md", "### ABI", "### Changed");
    copy.rejects("abi", "NGX_RS_NEW = 1");
    copy.change("CHANGELOG.md", "### Changed", "### ABI");

    copy.change(LIST, "NGX_RS_KEPT = 1", "NGX_RS_KEPT = 9");
    copy.rejects("abi", "NGX_RS_KEPT = 1");
    let older = released.replace("NGX_RS_ABI_VERSION = 1", "NGX_RS_ABI_VERSION = 0");
    assert_ne!(older, released);
    let now = fs::read_to_string(copy.0.join(LIST)).expect("it can be read");
    fs::write(copy.0.join(LIST), older).expect("it can be written");
    copy.commit();
    copy.git(&["tag", "v0.0.2"]);
    fs::write(copy.0.join(LIST), now).expect("it can be written");
    copy.accepts(&["abi"]);
}
