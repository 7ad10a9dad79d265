//! Fixtures: the real server on a free port with a data directory of its own, and pictures drawn by program.

pub(crate) mod pth;

use std::{
    io::{BufRead, BufReader, Cursor},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// How long a test waits for a state; far more than it takes, so that a loaded machine fails nothing.
pub(crate) const DEADLINE: Duration = Duration::from_secs(240);

/// Gives the HTTP clients of this process the cryptography that they need even where they do without.
pub(crate) fn provide_tls() {
    // Another test was first.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// An HTTP client.
pub(crate) fn client() -> reqwest::Client {
    client_builder().build().expect("a client without TLS settings can be made")
}

/// What an HTTP client is made with. It waits for no answer longer than a test may take.
pub(crate) fn client_builder() -> reqwest::ClientBuilder {
    provide_tls();
    reqwest::Client::builder().timeout(DEADLINE)
}

/// The binary under test: the one that was built with the tests, or with `IMGCLS_TEST_BINARY` another, as it is
/// shipped.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        shipped().map_or_else(|| env!("CARGO_BIN_EXE_imgcls").into(), |path| path.canonicalize().expect("it is there"))
    })
}

/// Whether the binary under test is as it is shipped.
pub(crate) fn is_shipped() -> bool {
    shipped().is_some()
}

fn shipped() -> Option<PathBuf> {
    std::env::var_os("IMGCLS_TEST_BINARY").map(PathBuf::from)
}

/// The binary under test, without the environment's configuration.
pub(crate) fn imgcls() -> Command {
    let mut command = Command::new(binary());
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("IMGCLS_") {
            command.env_remove(key);
        }
    }
    command
}

/// A running `imgcls serve`; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) dir: PathBuf,
    args: Vec<String>,
    variables: Vec<(String, String)>,
    log: PathBuf,
    /// Removed with the server, unless another owns it.
    _temp: Option<tempfile::TempDir>,
}

impl Server {
    /// Starts a server with its own data directory and these further arguments.
    pub(crate) fn start(args: &[&str]) -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory can be made");
        let dir = temp.path().join("data");
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let log = temp.path().join("log");
        let (child, url) = spawn(&dir, "127.0.0.1:0", &args, &[], &log);
        Self { child, url, dir, args, variables: Vec::new(), log, _temp: Some(temp) }
    }

    /// Starts a server on `dir` with these arguments and environment variables, logging to `log`. Both stay when it is
    /// dropped.
    pub(crate) fn start_in(dir: &Path, log: &Path, args: Vec<String>, variables: Vec<(String, String)>) -> Self {
        let (child, url) = spawn(dir, "127.0.0.1:0", &args, &variables, log);
        Self { child, url, dir: dir.to_owned(), args, variables, log: log.to_owned(), _temp: None }
    }

    /// Kills the server (SIGKILL), and with it its workers, since their standard input closes.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Starts it again on the same directory, on another port.
    pub(crate) fn restart(&mut self) {
        self.restart_on("127.0.0.1:0");
    }

    /// Starts it again where it was.
    pub(crate) fn restart_here(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        self.restart_on(&address);
    }

    fn restart_on(&mut self, address: &str) {
        let (child, url) = spawn(&self.dir, address, &self.args, &self.variables, &self.log);
        self.child = child;
        self.url = url;
    }

    /// Starts it again with other arguments.
    pub(crate) fn restart_with(&mut self, args: Vec<String>) {
        self.args = args;
        self.restart();
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM; answers how it ended.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        signal_if_there(self.child.id(), "TERM");
        self.wait()
    }

    /// Waits until it has ended; answers how.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().expect("the server is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not stop; its log: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The most memory that the server ever held, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the server runs");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map_or(0, |kib: u64| kib << 10)
    }

    /// What the server logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The processes of the workers.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let parent = self.child.id().to_string();
        let output = Command::new("ps").args(["-o", "pid=", "--ppid", &parent]).output().expect("ps runs");
        String::from_utf8_lossy(&output.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// A command of the same binary on the same data directory.
    pub(crate) fn tool(&self, args: &[&str]) -> Command {
        let mut command = imgcls();
        command.args(args).arg("--data-dir").arg(&self.dir).envs(self.variables.iter().cloned());
        command
    }
}

/// Sends a signal to a process, unless it has ended.
pub(crate) fn signal_if_there(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status();
    sent.expect("kill runs");
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(dir: &Path, address: &str, args: &[String], variables: &[(String, String)], log: &Path) -> (Child, String) {
    let log_file = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("the log can be written");
    let mut child = imgcls()
        .args(["serve", "--data-dir"])
        .arg(dir)
        .args(["--listen", address].iter().filter(|_| !args.iter().any(|arg| arg == "--listen")))
        .args(args)
        .envs(variables.iter().cloned())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout is piped"))
        .read_line(&mut line)
        .expect("the server writes a line");
    let url = line.trim().strip_prefix("listening on ").map(str::to_owned);
    let url = url
        .unwrap_or_else(|| panic!("no address in {line:?}; log: {}", std::fs::read_to_string(log).unwrap_or_default()));
    (child, url)
}

/// A picture that differs for each `seed`: PNG, 40 x 36 pixels.
pub(crate) fn picture(seed: u32) -> Vec<u8> {
    let noise =
        |x: u32, y: u32| (x.wrapping_mul(31) ^ y.wrapping_mul(17) ^ seed.wrapping_mul(2_654_435_761)).to_le_bytes();
    let image = image::RgbImage::from_fn(40, 36, |x, y| {
        let [r, g, b, _] = noise(x / 6, y / 6);
        image::Rgb([r, g, b])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("a picture can be encoded");
    bytes.into_inner()
}

/// Asks until the answer is `Some`, or fails after [`DEADLINE`] with what was waited for.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A multipart form with these files in the field `file`.
pub(crate) fn form(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> reqwest::multipart::Form {
    files.into_iter().fold(reqwest::multipart::Form::new(), |form, (name, bytes)| {
        form.part("file", reqwest::multipart::Part::bytes(bytes).file_name(name))
    })
}

/// Uploads files and answers the per-file entries.
pub(crate) async fn upload(
    client: &reqwest::Client,
    url: &str,
    files: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Vec<serde_json::Value> {
    let response = client
        .post(format!("{url}/"))
        .header("accept", "application/json")
        .multipart(form(files))
        .send()
        .await
        .unwrap();
    let answer: serde_json::Value = response.json().await.unwrap();
    answer["files"].as_array().unwrap_or_else(|| panic!("no files in {answer}")).clone()
}

/// All results, page by page.
pub(crate) async fn results(client: &reqwest::Client, url: &str) -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut request = client.get(format!("{url}/api/results")).query(&[("limit", "500")]);
        if let Some(name) = &after {
            request = request.query(&[("after", name)]);
        }
        let page: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        all.extend(page["results"].as_array().unwrap_or_else(|| panic!("no results in {page}")).iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => return all,
        }
    }
}

/// Ten pictures of the original report, from the test set of CIFAR-10; each name ends with the label.
pub(crate) fn labelled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/labelled")
}
