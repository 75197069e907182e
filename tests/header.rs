//! `include/ngx_rs_listen.h` is the output of `make header`, and documents each function
//! completely.

use std::fs;

#[test]
fn header_is_up_to_date() {
    let found = fs::read_to_string(header::path()).unwrap_or_default();
    assert!(
        found == header::text(),
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
    /// The documentation of a parameter: its line, and the indented lines after it.
    fn parameter_comment(&self, parameter: &str) -> String {
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
fn every_export_documents_its_results_threads_and_source() {
    let header = header::text();
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

/// The ownership of each pointer is documented with one of the defined terms. Numbers have no
/// owner.
#[test]
fn every_pointer_has_an_owner() {
    let header = header::text();
    for export in exports(&header) {
        let pointers = export.parameters.iter();
        for (_, name) in pointers.filter_map(|parameter| parameter.rsplit_once('*')) {
            let said = export.parameter_comment(name);
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
