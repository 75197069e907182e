//! What clang finds in a header, by way of bindgen's output: that is read as
//! text, so that the tests need no build script.

use std::collections::BTreeMap;

/// Sizes, alignments and offsets, by bindgen's descriptions of them; constants
/// and enumerators by their names.
pub type Facts = BTreeMap<String, i64>;

/// What a C compiler sees.
pub struct Seen {
    pub facts: Facts,
    pub functions: Vec<String>,
    /// The functions with their arguments and results, in Rust's words.
    pub prototypes: Vec<String>,
    pub strings: BTreeMap<String, String>,
}

/// Reads a header; only what matches `allowed` is of interest.
pub fn read(header: bindgen::Builder, allowed: &str) -> Seen {
    let bindings = header
        .allowlist_item(allowed)
        .allowlist_recursively(false)
        .layout_tests(true)
        .generate_comments(false)
        .prepend_enum_name(false)
        .formatter(bindgen::Formatter::None)
        .generate()
        .unwrap_or_else(|error| panic!("libclang is needed, install libclang-dev: {error}"));
    // One item or check to a line, whatever bindgen's own layout is.
    let text = bindings.to_string().replace('\n', " ");
    let items: Vec<String> = text.split(';').map(squeeze).collect();
    Seen {
        facts: items.iter().filter_map(|item| fact(item)).collect(),
        functions: items.iter().filter_map(|item| function(item)).collect(),
        prototypes: items.iter().filter_map(|item| prototype(item)).collect(),
        strings: items.iter().filter_map(|item| string(item)).collect(),
    }
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `["Size of x"] [... - 16usize]` or `pub const NAME : type = 5`
fn fact(item: &str) -> Option<(String, i64)> {
    if let Some(start) = item.find("[\"") {
        let (name, check) = item[start + 2..].split_once("\"]")?;
        let (_, number) = check.rsplit_once("- ")?;
        let number = number.trim_end_matches([']', ' ']);
        return Some((name.into(), number.strip_suffix("usize")?.parse().ok()?));
    }
    let (name, _, value) = constant(item)?;
    Some((name.into(), value.replace("- ", "-").parse().ok()?))
}

/// `pub const NAME : & [u8 ; 6] = b"0.1.0\0"`, of which the semicolon in the
/// type has cut off the name.
fn string(item: &str) -> Option<(String, String)> {
    let (length, value) = item.split_once("] = b\"")?;
    let (value, _) = value.split_once("\\0\"")?;
    Some((length.trim().into(), value.into()))
}

fn constant(item: &str) -> Option<(&str, &str, &str)> {
    let (_, rest) = item.rsplit_once("pub const ")?;
    let (name, rest) = rest.split_once(':')?;
    let (kind, value) = rest.split_once(" = ")?;
    Some((name.trim(), kind.trim(), value.trim()))
}

/// `unsafe extern "C" { pub fn NAME (...) -> ...`
fn prototype(item: &str) -> Option<String> {
    let (_, rest) = item.rsplit_once("pub fn ")?;
    Some(format!("fn {}", rest.trim()))
}

fn function(item: &str) -> Option<String> {
    let prototype = prototype(item)?;
    let (name, _) = prototype.strip_prefix("fn ")?.split_once('(')?;
    Some(name.trim().into())
}
