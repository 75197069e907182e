//! `include/ngx_rs_listen.h` is what cbindgen makes of src/capi.
//!
//! `make header` writes it: this test with NGX_RS_WRITE_HEADER set.

use std::fs;
use std::path::Path;

/// What stands in the header and is no item of Rust's.
fn macros() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let abi = ngx_rs_listen::capi::ngx_rs_abi_version();
    format!(
        r#"
/** The version of the library that this header belongs to. */
#define NGX_RS_VERSION "{version}"

/** To be compared with ngx_rs_abi_version(). */
#define NGX_RS_ABI_VERSION {abi}

/** A word from a string literal, as an initializer. */
#define NGX_RS_STR(text)                                                      \
    {{ sizeof(text) - 1, (const uint8_t *) (text) }}

/**
 * Initializers: `size`, and 0 in every other input, which is the default. The
 * struct may be that of an older or a newer header than the library's. An older
 * one lacks fields, which are 0 for the library, and nothing is written beyond
 * its size. A newer one may be longer, up to 4096 bytes, if the fields that the
 * library does not know are 0; in results they are 0, unless the function says
 * otherwise. Any other `size` is NGX_RS_ERR_ARGUMENT. Of ngx_rs_error_t every
 * size is accepted, and as much is written.
 */
#define NGX_RS_ERROR_INIT                                                     \
    {{ (uint32_t) sizeof(ngx_rs_error_t), 0, 0, 0, "" }}
#define NGX_RS_RULES_INIT                                                     \
    {{ (uint32_t) sizeof(ngx_rs_rules_t), NGX_RS_SUBSYSTEM_STREAM, 0 }}
#define NGX_RS_LISTENING_INIT                                                 \
    {{ (uint32_t) sizeof(ngx_rs_listening_t), 0, NULL, 0, SOCK_STREAM, 0, 0,   \
      0, 0, 0, 0, 0, 0, -1, NGX_RS_UNTOUCHED, 0, 0 }}
#define NGX_RS_INHERITED_INIT                                                 \
    {{ (uint32_t) sizeof(ngx_rs_inherited_t), -1, NULL, 0, 0, 0,               \
      NGX_RS_UNUSED, 0, 0 }}
#define NGX_RS_OPEN_INIT                                                      \
    {{ (uint32_t) sizeof(ngx_rs_open_t), 0, 0, 0, NULL, 0, NULL, NULL, NULL }}
#define NGX_RS_DRAINING_INIT                                                  \
    {{ (uint32_t) sizeof(ngx_rs_draining_t), -1, 0, 0, 0 }}
#define NGX_RS_CONNECTION_INFO_INIT                                           \
    {{ (uint32_t) sizeof(ngx_rs_connection_info_t), 0,                         \
      NGX_RS_CONNECTION_UNQUERIED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }}
#ifdef __cplusplus
#define NGX_RS_SUBFLOW_INIT                                                   \
    {{ (uint32_t) sizeof(ngx_rs_subflow_t), 0, 0, {{}}, {{}}, 0, 0, 0, 0, 0, 0 }}
#else
#define NGX_RS_SUBFLOW_INIT                                                   \
    {{ (uint32_t) sizeof(ngx_rs_subflow_t), 0, 0, {{ 0 }}, {{ 0 }}, 0, 0, 0, 0, \
      0, 0 }}
#endif
"#
    )
}

fn generate() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config =
        cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml is right");
    config.after_includes = Some(macros());
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/capi/mod.rs"))
        .with_src(root.join("src/capi/types.rs"))
        .generate()
        .expect("cbindgen understands src/capi");
    let mut header = Vec::new();
    bindings.write(&mut header);
    String::from_utf8(header).expect("a header is UTF-8")
}

#[test]
fn header_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/ngx_rs_listen.h");
    let wanted = generate();
    if std::env::var_os("NGX_RS_WRITE_HEADER").is_some() {
        fs::write(&path, &wanted).expect("include/ can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "include/ngx_rs_listen.h is stale: run \"make header\""
    );
}

/// A function of the header: its comment, name and parameters.
struct Export<'a> {
    comment: String,
    name: &'a str,
    parameters: Vec<&'a str>,
}

fn exports(header: &str) -> Vec<Export<'_>> {
    let comments = header.split("/**").skip(1);
    let declared = comments.filter_map(|text| {
        let (comment, rest) = text.split_once("*/\n")?;
        let (declared, _) = rest.split_once(");")?;
        let (result, _) = declared.split_once('(')?;
        let name = result.split_whitespace().next_back()?;
        (!declared.starts_with("typedef") && name.starts_with("ngx_rs_")).then(|| Export {
            comment: comment.replace("\n * ", "\n"),
            name,
            parameters: declared[result.len() + 1..].split(',').collect(),
        })
    });
    declared.collect()
}

impl Export<'_> {
    /// What the comment says of a parameter: a line, and those that are indented.
    fn says(&self, parameter: &str) -> String {
        let begins = |line: &&str| {
            let rest = line.strip_prefix(parameter).unwrap_or_default();
            rest.starts_with(' ') && rest.trim_start().starts_with(['i', 'o'])
        };
        let lines = self.comment.lines().skip_while(|line| !begins(line));
        let first = lines.clone().take(1);
        let more = lines
            .skip(1)
            .take_while(|line| line.starts_with("         "));
        let words = first.chain(more).flat_map(str::split_whitespace);
        words.collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn every_export_says_what_it_returns_its_threads_and_its_source() {
    let header = generate();
    let exports = exports(&header);
    assert_eq!(exports.len(), 28);
    for export in &exports {
        for text in ["Returns ", "thread", "Source: "] {
            assert!(export.comment.contains(text), "{}: {text}", export.name);
        }
        let status = header.contains(&format!("ngx_rs_status_t {}(", export.name));
        let ok = export.comment.contains("Returns NGX_RS_OK or NGX_RS_ERR_");
        assert_eq!(ok, status, "{}", export.name);
    }
}

/// In words of which each has one meaning; numbers have none.
#[test]
fn every_pointer_has_an_owner() {
    let header = generate();
    for export in exports(&header) {
        let pointers = export.parameters.iter();
        for (_, name) in pointers.filter_map(|parameter| parameter.rsplit_once('*')) {
            let said = export.says(name);
            let words = match name {
                "count" => ["how many"; 2],
                "error" => ["optional, may be NULL"; 2],
                _ if export.name.ends_with("_free") => ["it owns"; 2],
                _ => ["borrowed for the call", "released with ngx_rs_"],
            };
            let known = words.iter().any(|words| said.contains(words));
            assert!(known, "{}: {name}: \"{said}\"", export.name);
        }
    }
}
