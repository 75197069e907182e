//! The declarations that clang finds in a header. bindgen runs clang, and its output is read as
//! text, so that the tests need no build script.

use std::collections::BTreeMap;

/// Numbers by name. The name of a size, an alignment or an offset is bindgen's description of it.
/// Constants and enumerators have their own names.
pub type Facts = BTreeMap<String, i64>;

/// The declarations of a header as a C compiler sees them.
pub struct Seen {
    pub facts: Facts,
    pub functions: Vec<String>,
    /// The functions with their arguments and results, in Rust syntax.
    pub prototypes: Vec<String>,
    /// The fields of the structs and the other types, in Rust syntax.
    pub types: Vec<String>,
    pub strings: BTreeMap<String, String>,
}

/// Reads the declarations of a header whose names match the pattern `allowed`.
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
    // Removing all line breaks makes the text independent of bindgen's layout.
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

/// The parts of the text that end in a semicolon. The semicolon before the length of an array
/// ends no part.
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
