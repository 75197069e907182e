//! The files in debian/ agree with Cargo.toml. tests/deb.sh tests the installation of the
//! packages.

use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{} can be read", path.display()))
}

#[test]
fn the_version_is_that_of_the_crate() {
    let newest = concat!("ngx-rs-listen (", env!("CARGO_PKG_VERSION"), "-");
    assert!(
        read("debian/changelog").starts_with(newest),
        "the changelog begins with {newest}"
    );
}

#[test]
fn the_library_package_has_the_soname_in_its_name() {
    let abi = match env!("CARGO_PKG_VERSION_MAJOR") {
        "0" => concat!("0.", env!("CARGO_PKG_VERSION_MINOR")),
        major => major,
    };
    let package = format!("Package: libngx-rs-listen{abi}\n");
    assert!(
        read("debian/control").contains(&package),
        "control has {package}"
    );
}

#[test]
fn copyright_names_every_crate_that_is_linked() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix=none"])
        .args(["--edges=normal,no-proc-macro", "--format={p} {l}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{output:?}");
    let copyright = read("debian/copyright");
    let crates = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    for line in crates.lines().skip(1) {
        let (name, _) = line.split_once(' ').expect("a name and a version");
        assert!(line.contains("MIT"), "{line}: another license");
        let named = format!("\n {name}, copyright ");
        assert!(copyright.contains(&named), "{name} is not named");
    }
    assert!(crates.lines().count() > 3, "the crate and others: {crates}");
}
