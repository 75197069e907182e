//! The lines of tests/data/*.txt.

use ngx_rs_listen::parse::Subsystem;

pub const SUBSYSTEMS: [Subsystem; 3] = [Subsystem::Stream, Subsystem::Http, Subsystem::Mail];

/// `SUBSYSTEMS: WORDS => OUTCOME`
pub struct Line {
    pub subsystems: Vec<Subsystem>,
    pub words: Vec<String>,
    pub outcome: String,
}

impl Line {
    pub fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }
}

/// All lines except comments and empty lines.
pub fn lines(text: &str) -> impl Iterator<Item = Line> {
    let lines = text.lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| read(line).unwrap_or_else(|| panic!("a line is wrong: {line}")))
}

fn read(line: &str) -> Option<Line> {
    let (subsystems, rest) = line.split_once(": ")?;
    let (words, outcome) = rest.split_once(" => ")?;
    let subsystems = match subsystems {
        "all" => SUBSYSTEMS.to_vec(),
        names => names.split(',').map(subsystem).collect::<Option<_>>()?,
    };
    Some(Line {
        subsystems,
        words: split(words)?,
        outcome: outcome.into(),
    })
}

fn subsystem(name: &str) -> Option<Subsystem> {
    match name {
        "stream" => Some(Subsystem::Stream),
        "http" => Some(Subsystem::Http),
        "mail" => Some(Subsystem::Mail),
        _ => None,
    }
}

/// Splits text into words as nginx.conf does: at blanks, but not within double quotes.
fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find(' ').unwrap_or(rest.len())),
        };
        words.push(word.into());
        rest = tail.trim_start();
    }
    Some(words)
}
