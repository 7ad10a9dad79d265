//! Emulators of AWS for tests: installed once below the target directory, started on free ports, ended with the test
//! process.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// An emulator or proxy that runs. It ends when this is dropped, and with the test process, however that ends.
#[derive(Debug)]
pub(crate) struct Emulator {
    /// Where it is: `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    child: Child,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Its end of the pipe tells the shell to kill the emulator.
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}

impl Emulator {
    /// Starts `program` with `arguments` and `variables`, where `PORT` stands for a free port, and waits until `health`
    /// answers.
    fn start(program: &str, arguments: &[&str], variables: &[(&str, &str)], health: &str) -> Self {
        // A port that was free a moment ago may be taken by the time it is used; then the next one is.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
            let with_port = |text: &str| text.replace("PORT", &port);
            let mut child = Command::new("sh")
                // A killed test process closes the pipe, a dropped emulator too.
                .args(["-c", r#""$@" </dev/null & pid=$!; cat >/dev/null; kill -9 $pid 2>/dev/null"#, "sh"])
                .arg(programs().join(program))
                .args(arguments.iter().map(|a| with_port(a)))
                .envs(variables.iter().map(|(k, v)| (k, with_port(v))))
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
                if get(&format!("127.0.0.1:{port}"), health).is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                    return Self { url: format!("http://127.0.0.1:{port}"), child };
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            drop(child.stdin.take());
            child.wait().ok();
        }
        panic!("{program} does not start");
    }

    /// S3 with events, SQS and DynamoDB.
    pub(crate) fn ministack() -> Self {
        let variables = [("BIND_HOST", "127.0.0.1"), ("GATEWAY_PORT", "PORT"), ("LOG_LEVEL", "ERROR")];
        Self::start("ministack", &[], &variables, "/_ministack/health")
    }

    /// The access key that may do everything on [`Emulator::guarded_ministack`]; its secret is `secret`.
    pub(crate) const ROOT: &str = "root";

    /// S3, SQS, DynamoDB and IAM, whose policies are in force.
    pub(crate) fn guarded_ministack() -> Self {
        let variables =
            [("BIND_HOST", "127.0.0.1"), ("GATEWAY_PORT", "PORT"), ("LOG_LEVEL", "ERROR"), ("AUTH", "true")];
        let root = [("AWS_ACCESS_KEY_ID", Self::ROOT), ("AWS_SECRET_ACCESS_KEY", "secret")];
        Self::start("ministack", &[], &[&variables[..], &root].concat(), "/_ministack/health")
    }

    /// A proxy before `upstream` that makes faults.
    pub(crate) fn microburst(upstream: &str) -> Self {
        let arguments = ["--upstream", upstream, "--host", "127.0.0.1", "--port", "PORT"];
        Self::start("microburst", &arguments, &[], "/_microburst/health")
    }

    /// Auto Scaling.
    pub(crate) fn moto() -> Self {
        Self::start("moto_server", &["-H", "127.0.0.1", "-p", "PORT"], &[], "/moto-api/data.json")
    }
}

/// The ministack that all tests of this process share, each with an account of its own.
pub(crate) fn shared_ministack() -> &'static str {
    static SHARED: OnceLock<Emulator> = OnceLock::new();
    &SHARED.get_or_init(Emulator::ministack).url
}

/// An account that no other test has: 12 digits, given as the access key.
pub(crate) fn account() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("1{:05}{:06}", std::process::id() % 100_000, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The directory of the emulators' programs.
pub(crate) fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws/emulators.sh");
        // Tests run in TARGET/PROFILE/deps.
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("emulators");
        let installed =
            Command::new(script).arg(target).stderr(Stdio::inherit()).output().expect("sh and flock are there");
        assert!(installed.status.success(), "the emulators cannot be installed; is python3-venv there, and PyPI?");
        PathBuf::from(String::from_utf8(installed.stdout).unwrap().trim())
    })
}

/// The head of the answer to a `GET`.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut head = [0; 64];
    let n = stream.read(&mut head).ok()?;
    Some(String::from_utf8_lossy(&head[..n]).into_owned())
}
