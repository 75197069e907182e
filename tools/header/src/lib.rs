//! Generates include/ngx_rs_listen.h from the template src/capi/ngx_rs_listen.h.in. cbindgen
//! writes the types and functions of src/capi in C, and they are inserted into the template.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the repository.
fn root() -> &'static Path {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tool.ancestors().nth(2);
    root.expect("this package is in tools/header")
}

/// The path of the header.
pub fn path() -> PathBuf {
    root().join("include/ngx_rs_listen.h")
}

/// The text of the header.
pub fn text() -> String {
    let frame = read("src/capi/ngx_rs_listen.h.in");
    frame
        .replace("@VERSION@", &version())
        .replace("@ABI_VERSION@", &abi_version())
        .replace("@TYPES_AND_FUNCTIONS@", types_and_functions().trim())
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The version of the library.
fn version() -> String {
    let manifest = read("Cargo.toml");
    let mut lines = manifest.lines();
    let version = lines.find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    version.expect("Cargo.toml has a version").into()
}

fn abi_version() -> String {
    ngx_rs_listen::capi::ngx_rs_abi_version().to_string()
}

fn types_and_functions() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml"));
    let bindings = cbindgen::Builder::new()
        .with_config(config.expect("cbindgen.toml is right"))
        .with_src(root().join("src/capi/mod.rs"))
        .with_src(root().join("src/capi/types.rs"))
        .generate()
        .expect("cbindgen understands src/capi");
    let mut text = Vec::new();
    bindings.write(&mut text);
    String::from_utf8(text).expect("cbindgen writes UTF-8")
}
