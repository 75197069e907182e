//! C and C++ programs that use the library. They are compiled with all warnings as errors,
//! linked with the shared and with the static library, and run in their own network namespace,
//! also under valgrind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use test_support::{lacking, library, namespace};

const C: [&str; 6] = [
    "cc",
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Werror",
];
const CXX: [&str; 5] = ["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror"];

/// How a program is linked with the library.
#[derive(Clone, Copy, Debug)]
enum Link {
    Shared,
    Static,
    /// Like `Static`, and compiled with sanitizers. They check the memory of the program, the
    /// memory that the library allocates by malloc(), and undefined behaviour.
    Sanitized,
}

/// A folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("capi-{name}"));
    // The folder exists if the test ran before.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("target/ can be written");
    folder
}

fn compile(compiler: &[&str], source: &Path, folder: &Path, link: Link) -> PathBuf {
    let program = folder.join(format!("{link:?}").to_lowercase());
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]).arg("-g").arg("-O1");
    command.arg("-I").arg(library::root().join("include"));
    command.arg("-I").arg(library::root().join("tests/data"));
    command.arg(source).arg("-o").arg(&program);
    match link {
        Link::Static | Link::Sanitized => {
            if let Link::Sanitized = link {
                command.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
            }
            command.arg(library::folder().join("libngx_rs_listen.a"));
        }
        Link::Shared => {
            let shared = library::folder().join("libngx_rs_listen.so");
            // A link with the soname, as an installation has it.
            let abi = ngx_rs_listen::capi::ngx_rs_abi_version();
            let soname = folder.join(format!("libngx_rs_listen.so.0.{abi}"));
            symlink(&shared, soname).expect("the folder is ours");
            command.arg(shared).arg("-Wl,-rpath").arg(folder);
        }
    }
    library::run(command.args(["-lpthread", "-ldl"]));
    program
}

/// Runs a program, and checks that it succeeds and writes nothing to stderr.
fn succeeds(command: &mut Command) -> String {
    namespace::run(|| {
        let output = command.output();
        let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{command:?}: {}\n{stdout}{stderr}",
            output.status
        );
        assert_eq!(stderr, "", "{command:?} wrote on stderr");
        stdout
    })
}

/// Runs a program of tests/c linked with either library, under valgrind, and with sanitizers.
fn check(name: &str) -> PathBuf {
    let source = library::root().join(format!("tests/c/{name}.c"));
    let folder = folder(name);
    succeeds(&mut Command::new(compile(
        &C,
        &source,
        &folder,
        Link::Sanitized,
    )));
    for link in [Link::Shared, Link::Static] {
        let program = compile(&C, &source, &folder, link);
        succeeds(&mut Command::new(&program));
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--quiet", "--error-exitcode=1", "--leak-check=full"]);
        succeeds(valgrind.arg("--track-fds=no").arg(&program));
    }
    folder.join("static")
}

#[test]
fn parsing() {
    check("parse");
}

#[test]
fn opening() {
    check("open");
}

#[test]
fn connections() {
    check("connection");
}

#[test]
fn histories() {
    check("history");
}

#[test]
fn clients() {
    check("connect");
}

#[test]
fn mistakes() {
    check("mistakes");
}

/// A program that was compiled for version 0.1 works with the current library.
#[test]
fn version_0_1() {
    check("version_0_1");
}

#[test]
fn threads() {
    let program = check("threads");
    let mut helgrind = Command::new("valgrind");
    helgrind.args(["--quiet", "--error-exitcode=1", "--tool=helgrind"]);
    let known = library::root().join("tests/c/helgrind.supp");
    helgrind.arg(format!("--suppressions={}", known.display()));
    succeeds(helgrind.arg(program));
}

#[test]
fn cxx() {
    let source = library::root().join("tests/c/header.cc");
    let folder = folder("cxx");
    for link in [Link::Shared, Link::Static] {
        succeeds(&mut Command::new(compile(&CXX, &source, &folder, link)));
    }
}

/// The header on its own, as the first thing that a program includes.
#[test]
fn the_header_compiles_on_its_own() {
    let folder = folder("header");
    let source = folder.join("header.c");
    let text = "#include <ngx_rs_listen.h>\nint main(void) { return 0; }\n";
    fs::write(&source, text).expect("the folder is ours");
    for standard in ["-std=c99", "-std=c11", "-std=c17"] {
        let compiler = ["cc", standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror"];
        compile(&compiler, &source, &folder, Link::Static);
    }
}

/// The unchanged example of the manual compiles and runs.
#[test]
fn the_example_of_the_manual() {
    let manual = fs::read_to_string(library::root().join("docs/library.md"));
    let manual = manual.expect("there is a manual");
    let example = manual.split("```c\n").nth(1);
    let example = example.and_then(|rest| rest.split("```").next());
    let folder = folder("manual");
    let source = folder.join("manual.c");
    fs::write(&source, example.expect("the manual has an example in C")).expect("ours");
    for link in [Link::Shared, Link::Static] {
        let program = compile(&C, &source, &folder, link);
        // The ports of the example may be in use on this machine.
        namespace::run(|| {
            let said = succeeds(&mut Command::new(program));
            assert!(said.contains("MPTCP"), "{said}");
        });
    }
}

/// The five lines of README.md, inserted into a program. Their socket is non-blocking, so
/// accept() returns without a client.
#[test]
fn the_lines_of_the_readme() {
    let readme = fs::read_to_string(library::root().join("README.md"));
    let readme = readme.expect("there is a README");
    let lines = readme.split("```c\n").nth(1);
    let lines = lines.and_then(|rest| rest.split("```").next());
    let lines = lines.expect("README has lines in C");
    assert_eq!(lines.lines().count(), 5);
    let text = format!(
        "#include <stdio.h>\n#include <sys/socket.h>\n#include <ngx_rs_listen.h>\n\
         int main(void)\n{{\n\
         ngx_rs_error_t error = NGX_RS_ERROR_INIT;\nngx_rs_listen_t *listen;\n\
         ngx_rs_listening_t *sockets;\nsize_t count;\n{lines}\
         printf(\"%d\\n\", sockets[0].opened_protocol);\nreturn 0;\n}}\n"
    );
    let folder = folder("lines");
    let source = folder.join("lines.c");
    fs::write(&source, text).expect("the folder is ours");
    let program = compile(&C, &source, &folder, Link::Static);
    namespace::run(|| {
        let said = succeeds(&mut Command::new(&program));
        assert_eq!(said, format!("{}\n", libc::IPPROTO_MPTCP));
    });
}

/// The C example over SCTP, if the kernel supports SCTP.
#[test]
fn the_example_in_c_serves_sctp() {
    let source = library::root().join("examples/echo.c");
    let program = compile(&C, &source, &folder("sctp"), Link::Static);
    namespace::run(|| {
        let mut echo = Command::new(program);
        echo.args(["127.0.0.1:7000", "protocol=sctp"]);
        let sctp = Some(Protocol::SCTP);
        let Ok(client) = Socket::new(Domain::IPV4, Type::STREAM, sctp) else {
            let output = echo.output().expect("it was compiled");
            let said = String::from_utf8_lossy(&output.stderr);
            let why = "sctp is not supported by this kernel, module sctp is needed";
            assert!(!output.status.success() && said.contains(why), "{said}");
            lacking::left_out("sctp", "only the refusal was tested");
            return;
        };
        let echo = echo.stdout(Stdio::piped()).spawn();
        let mut echo = echo.expect("it was compiled");
        let said = echo.stdout.take().expect("it is a pipe");
        let mut said = BufReader::new(said).lines().map_while(Result::ok);
        assert_eq!(said.next().as_deref(), Some("127.0.0.1:7000: SCTP, opened"));
        assert_eq!(said.next().as_deref(), Some("listening on 1 sockets"));
        let address: SocketAddr = "127.0.0.1:7000".parse().expect("an address");
        client.connect(&address.into()).expect("it listens");
        client
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("any socket");
        for number in 0..20 {
            let message = vec![number; 4096];
            (&client).write_all(&message).expect("it is connected");
            let mut answer = vec![0; message.len()];
            (&client).read_exact(&mut answer).expect("it echoes");
            assert_eq!(answer, message);
        }
        drop(client);
        assert_eq!(said.next().as_deref(), Some("other"));
        echo.kill().expect("it runs");
        echo.wait().expect("it is our child");
    });
}

/// Runs the C client against the C server, whose arguments are `words`. Returns the client's
/// description of the connection, and the data that it received.
fn client_output(folder: &Path, words: &[&str], input: &[u8]) -> (String, Vec<u8>) {
    let program = |name: &str| {
        let source = library::root().join(format!("examples/{name}.c"));
        let folder = folder.join(name);
        // The folder exists if this is the second server.
        let _ = fs::create_dir(&folder);
        compile(&C, &source, &folder, Link::Static)
    };
    let echo = Command::new(program("echo"))
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut echo = echo.expect("it was compiled");
    let said = echo.stdout.take().expect("it is a pipe");
    let mut said = BufReader::new(said).lines().map_while(Result::ok);
    assert!(said.any(|line| line == "listening on 1 sockets"));
    let path = folder.join("input");
    fs::write(&path, input).expect("the folder is ours");
    let client = Command::new(program("client"))
        .args(["127.0.0.1", "7000"])
        .stdin(fs::File::open(path).expect("it was written"))
        .output()
        .expect("it was compiled");
    let problem = String::from_utf8_lossy(&client.stderr).into_owned();
    assert!(client.status.success(), "{problem}");
    echo.kill().expect("it runs");
    echo.wait().expect("it is our child");
    (problem, client.stdout)
}

#[test]
fn the_client_in_c_prints_the_kind_of_its_connection() {
    let folder = folder("client");
    namespace::run(|| {
        let input: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
        for (words, expected) in [
            (["127.0.0.1:7000", "mptcp"], ": MPTCP\n"),
            (["127.0.0.1:7000", "mptcp=off"], ": fallback to TCP\n"),
        ] {
            let (said, back) = client_output(&folder, &words, &input);
            assert!(said.ends_with(expected), "{said}");
            assert!(back == input, "{} bytes came back", back.len());
        }
        fs::write("/proc/sys/net/mptcp/enabled", "0").expect("we are root");
        let (said, back) = client_output(&folder, &["127.0.0.1:7000"], b"text");
        assert!(said.ends_with(": TCP\n"), "{said}");
        assert_eq!(back, b"text");
    });
}

#[test]
fn the_client_in_c_fails_without_a_server() {
    let source = library::root().join("examples/client.c");
    let program = compile(&C, &source, &folder("alone"), Link::Static);
    namespace::run(|| {
        let output = Command::new(program).args(["127.0.0.1", "7000"]).output();
        let output = output.expect("it was compiled");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.ends_with("127.0.0.1: Connection refused\n"), "{said}");
    });
}
