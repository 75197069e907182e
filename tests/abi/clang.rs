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
    /// The fields of the structs, and other types, likewise.
    pub types: Vec<String>,
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
    let text = squeeze(&bindings.to_string());
    let items = items(&text);
    let aliases = items.iter().filter_map(|item| alias(item));
    Seen {
        facts: items.iter().filter_map(|item| fact(item)).collect(),
        functions: items.iter().filter_map(|item| function(item)).collect(),
        prototypes: items.iter().filter_map(|item| prototype(item)).collect(),
        types: fields(&text).into_iter().chain(aliases).collect(),
        strings: items.iter().filter_map(|item| string(item)).collect(),
    }
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What ends in a semicolon, that of an array's length aside.
fn items(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let ends = text.split(|letter| {
        depth += i32::from(letter == '[') - i32::from(letter == ']');
        letter == ';' && depth == 0
    });
    ends.map(str::trim).collect()
}

/// `pub struct NAME { pub FIELD : TYPE , pub FIELD : TYPE , }`
fn fields(text: &str) -> Vec<String> {
    let structs = text.split("pub struct ").skip(1);
    let bodies = structs.filter_map(|rest| rest.split_once('}')?.0.split_once('{'));
    let fields = bodies.flat_map(|(name, body)| {
        let fields = body.split("pub ").skip(1);
        fields.map(move |field| format!("{}::{}", name.trim(), field.trim_end_matches([' ', ','])))
    });
    fields.collect()
}

/// `pub type NAME = TYPE`
fn alias(item: &str) -> Option<String> {
    let (_, rest) = item.rsplit_once("pub type ")?;
    Some(format!("type {rest}"))
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

/// `pub const NAME : & [u8 ; 6] = b"0.1.0\0"`
fn string(item: &str) -> Option<(String, String)> {
    let (name, _, value) = constant(item)?;
    let value = value.strip_prefix("b\"")?.strip_suffix("\\0\"")?;
    Some((name.into(), value.into()))
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
