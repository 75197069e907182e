//! `#[test_on(stream, http, mail)]`

use proc_macro::{TokenStream, TokenTree};

/// Turns a function with a `Subsystem` parameter into one test for each listed subsystem:
/// `name::stream`, `name::http` and `name::mail`.
#[proc_macro_attribute]
pub fn test_on(subsystems: TokenStream, function: TokenStream) -> TokenStream {
    let tests = match tests(&subsystems.to_string(), function.clone()) {
        Ok(tests) => tests,
        Err(wrong) => format!("compile_error!({wrong:?});"),
    };
    let tests: TokenStream = tests.parse().expect("this is Rust");
    function.into_iter().chain(tests).collect()
}

fn tests(subsystems: &str, function: TokenStream) -> Result<String, String> {
    let name = name(function).ok_or("#[test_on] belongs to a function")?;
    let tests = subsystems
        .split(',')
        .map(|subsystem| test(&name, subsystem.trim()))
        .collect::<Result<String, _>>()?;
    Ok(format!("mod {name} {{ {tests} }}"))
}

fn test(name: &str, subsystem: &str) -> Result<String, String> {
    let variant = match subsystem {
        "stream" => "Stream",
        "http" => "Http",
        "mail" => "Mail",
        other => return Err(format!("\"{other}\" is not stream, http or mail")),
    };
    Ok(format!(
        "#[test]
         fn {subsystem}() {{
             let on = ::test_support::subsystem::Subsystem::{variant};
             ::test_support::without_mptcp::run(|| super::{name}(on));
         }}"
    ))
}

/// The name of a function.
fn name(function: TokenStream) -> Option<String> {
    let is_fn =
        |token: &TokenTree| matches!(token, TokenTree::Ident(word) if word.to_string() == "fn");
    let name = function
        .into_iter()
        .skip_while(|token| !is_fn(token))
        .nth(1);
    name.map(|name| name.to_string())
}
