//! One container: its root directory and its process, probes, restarts, and how it is stopped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, LifecycleHandler, Probe,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use test_kubelet::probe::{self, Backoff, Kind, Row, Timing};
use test_kubelet::{env, state};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::pod::Life;

/// What of an image matters here.
struct Image {
    entrypoint: &'static [&'static str],
    path: &'static str,
    user: u32,
    /// Whether it has a shell and its tools.
    shell: bool,
    /// Its STOPSIGNAL.
    stop: &'static str,
}

/// The image of a name: the distribution's programs stand for it.
fn image(name: &str) -> Option<(&'static str, Image)> {
    let base = name.split('@').next().unwrap_or(name).rsplit('/').next()?.split(':').next()?;
    Some(match base {
        "telemetry" => (
            "telemetry",
            Image { entrypoint: &["/usr/local/bin/telemetry"], path: "/usr/local/bin", user: 65532, shell: false, stop: "TERM" },
        ),
        "redis" => ("redis", Image { entrypoint: &[], path: "/usr/local/bin:/usr/bin:/bin", user: 0, shell: true, stop: "TERM" }),
        "postgres" => (
            "postgres",
            Image {
                entrypoint: &["/usr/local/bin/docker-entrypoint.sh"],
                path: "/usr/local/bin:/usr/bin:/bin",
                user: 0,
                shell: true,
                // A fast shutdown: with TERM it would wait for its clients.
                stop: "INT",
            },
        ),
        _ => return None,
    })
}

/// A process in a container, for what is executed beside it.
#[derive(Clone)]
pub struct Process {
    pub pid: u32,
    pub user: u32,
    pub group: u32,
    pub env: BTreeMap<String, String>,
    stop: &'static str,
}

impl Process {
    /// A command beside it.
    pub fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        command
            .args(["--target", &self.pid.to_string(), "--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wd"])
            .args(["--setuid", &self.user.to_string(), "--setgid", &self.group.to_string(), "--"])
            .args(arguments)
            .env_clear()
            .envs(&self.env)
            .kill_on_drop(true);
        command
    }
}

/// A container that runs, or ran.
struct Started {
    child: Child,
    process: Process,
    at: Instant,
    started_at: Time,
}

/// How it ended.
struct Ended {
    code: i32,
    ran: Duration,
}

/// Runs a container until it is over for good or the pod is to stop; says whether it ended well.
pub async fn run(life: Arc<Life>, container: Container, init: bool) -> bool {
    let pod = life.pod();
    let mut stop = life.stop.clone();
    let policy = match (pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()), init) {
        (Some("Never"), _) => "Never",
        (_, true) => "OnFailure",
        (Some("OnFailure"), _) => "OnFailure",
        _ => "Always",
    };
    let mut backoff = Backoff::default();
    loop {
        if stop.borrow().is_some() {
            return false;
        }
        let started = match start(&life, &container).await {
            Ok(started) => started,
            Err((reason, message)) => {
                life.waits(&container.name, init, reason, &message);
                life.shared.event(&pod, "Failed", &format!("Error: {message}")).await;
                wait(&mut stop, Duration::from_secs(2)).await;
                continue;
            }
        };
        life.shared.journal(&pod, &container.name, "start", json!({"pid": started.process.pid}));
        life.runs(&container, init, &started.started_at);
        let started_at = started.started_at.clone();
        let (ended, why) = one_run(&life, &container, started).await;
        let again = stop.borrow().is_none() && state::restarts(policy, ended.code);
        life.shared.journal(
            &pod,
            &container.name,
            "exit",
            json!({"code": ended.code, "ran": ended.ran.as_secs_f64(), "stopped": stop.borrow().is_some(), "why": why, "again": again}),
        );
        let reason = if ended.code == 0 { "Completed" } else { "Error" };
        life.ended(
            &container.name,
            init,
            ContainerStateTerminated {
                exit_code: ended.code,
                reason: Some(reason.into()),
                started_at: Some(started_at),
                finished_at: Some(Time(Timestamp::now())),
                message: why,
                ..ContainerStateTerminated::default()
            },
        );
        if !again {
            return ended.code == 0;
        }
        let pause = backoff.after(ended.ran);
        life.waits(
            &container.name,
            init,
            "CrashLoopBackOff",
            &format!("back-off {}s restarting failed container={}", pause.as_secs(), container.name),
        );
        life.shared.event(&pod, "BackOff", &format!("Back-off restarting failed container {}", container.name)).await;
        wait(&mut stop, pause).await;
        life.restarted(&container.name, init);
    }
}

/// Waits, or until the pod is to stop.
pub async fn wait(stop: &mut watch::Receiver<Option<Duration>>, time: Duration) {
    tokio::select! {
        () = sleep(time) => {}
        _ = stop.wait_for(Option::is_some) => {}
    }
}

/// From the start of a process to its end, by itself, by a probe, or because the pod stops.
async fn one_run(life: &Arc<Life>, container: &Container, mut started: Started) -> (Ended, Option<String>) {
    let pod = life.pod();
    let key = life.key(&container.name);
    if let Ok(mut processes) = life.shared.processes.lock() {
        processes.insert(key.clone(), started.process.clone());
    }
    let mut stop = life.stop.clone();
    let (status, why) = {
        let probes = probes(life.clone(), container.clone(), started.process.clone());
        tokio::pin!(probes);
        tokio::select! {
            status = started.child.wait() => (Some(status), None),
            _ = stop.wait_for(Option::is_some) => (None, None),
            why = &mut probes => (None, Some(why)),
        }
    };
    let status = match status {
        Some(status) => status,
        None => {
            life.unready(&container.name);
            let default = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
            let default = Duration::from_secs(u64::try_from(default).unwrap_or(30));
            let grace = stop.borrow().unwrap_or(default);
            life.shared.event(&pod, "Killing", &format!("Stopping container {}", container.name)).await;
            terminate(life, container, &mut started, grace).await
        }
    };
    if let Ok(mut processes) = life.shared.processes.lock() {
        processes.remove(&key);
    }
    let code = match status {
        Ok(status) => state::exit_code(status.code(), status.signal()),
        Err(_) => 255,
    };
    (Ended { code, ran: started.at.elapsed() }, why)
}

/// The hook before the end, the signal, and after the grace period the one that nobody survives.
async fn terminate(
    life: &Arc<Life>,
    container: &Container,
    started: &mut Started,
    grace: Duration,
) -> std::io::Result<std::process::ExitStatus> {
    let pod = life.pod();
    let begun = Instant::now();
    let deadline = begun + grace;
    if let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
        let hook_begun = Instant::now();
        let result = timeout(grace, pre_stop(hook, &started.process)).await;
        let said = match result {
            Ok(Ok(())) => "done".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("not done after {} s", grace.as_secs()),
        };
        life.shared.journal(
            &pod,
            &container.name,
            "preStop",
            json!({"result": said, "took": hook_begun.elapsed().as_secs_f64()}),
        );
    }
    signal(started.process.pid, started.process.stop).await;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(2));
    if let Ok(status) = timeout(left, started.child.wait()).await {
        life.shared.journal(
            &pod,
            &container.name,
            "stopped",
            json!({"took": begun.elapsed().as_secs_f64(), "grace": grace.as_secs(), "sigkill": false}),
        );
        return status;
    }
    life.shared.journal(
        &pod,
        &container.name,
        "stopped",
        json!({"took": begun.elapsed().as_secs_f64(), "grace": grace.as_secs(), "sigkill": true}),
    );
    signal(started.process.pid, "KILL").await;
    started.child.wait().await
}

async fn signal(pid: u32, name: &str) {
    // It may have ended meanwhile.
    let _ = crate::network::run("/bin/kill", &["-s", name, &pid.to_string()], "").await;
}

async fn pre_stop(hook: &LifecycleHandler, process: &Process) -> Result<()> {
    if let Some(pause) = &hook.sleep {
        sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or(0))).await;
    } else if let Some(exec) = &hook.exec {
        let output = process.command(exec.command.as_deref().unwrap_or_default()).stdin(Stdio::null()).output().await?;
        if !output.status.success() {
            bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
    } else {
        bail!("this kubelet knows hooks that sleep or execute only");
    }
    Ok(())
}

/// Runs the probes of a container; ends when one of them says that it is to be started again, with the reason.
async fn probes(life: Arc<Life>, container: Container, process: Process) -> String {
    if let Some(probe) = &container.startup_probe
        && let Some(why) = watch_probe(&life, &container, &process, probe, Kind::Startup).await
    {
        return why;
    }
    life.started(&container.name);
    let readiness = async {
        match &container.readiness_probe {
            Some(probe) => watch_probe(&life, &container, &process, probe, Kind::Readiness).await,
            None => {
                life.ready(&container.name, true);
                None
            }
        }
    };
    let liveness = async {
        match &container.liveness_probe {
            Some(probe) => watch_probe(&life, &container, &process, probe, Kind::Liveness).await,
            None => None,
        }
    };
    let forever = async |why: Option<String>| match why {
        Some(why) => why,
        None => std::future::pending().await,
    };
    tokio::select! {
        why = async { forever(readiness.await).await } => why,
        why = async { forever(liveness.await).await } => why,
    }
}

/// Asks again and again. Ends with nothing when the startup probe has succeeded, with a reason when the container is to be started again.
async fn watch_probe(life: &Arc<Life>, container: &Container, process: &Process, probe: &Probe, kind: Kind) -> Option<String> {
    let timing = Timing::of(probe);
    let mut row = Row::default();
    let pod = life.pod();
    sleep(timing.delay).await;
    loop {
        let result = match timeout(timing.timeout, ask(life, container, process, probe)).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("no answer in {} s", timing.timeout.as_secs())),
        };
        let said = result.as_ref().err().map(|error| format!("{kind:?} probe failed: {error:#}"));
        if let Some(said) = &said {
            life.shared.journal(&pod, &container.name, "probe", json!({"kind": format!("{kind:?}"), "error": said}));
            life.shared.event(&pod, "Unhealthy", said).await;
        }
        match (row.take(&timing, result.is_ok()), kind) {
            (Some(true), Kind::Startup) => return None,
            (Some(good), Kind::Readiness) => life.ready(&container.name, good),
            (Some(false), Kind::Startup | Kind::Liveness) => return said,
            _ => {}
        }
        sleep(timing.period).await;
    }
}

/// One question of a probe.
async fn ask(life: &Arc<Life>, container: &Container, process: &Process, probe: &Probe) -> Result<()> {
    let named: Vec<(String, i32)> =
        container.ports.iter().flatten().filter_map(|port| Some((port.name.clone()?, port.container_port))).collect();
    if let Some(exec) = &probe.exec {
        let output = process.command(exec.command.as_deref().unwrap_or_default()).stdin(Stdio::null()).output().await?;
        if !output.status.success() {
            bail!("{}: {}", output.status, String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim());
        }
    } else if let Some(get) = &probe.http_get {
        let port = probe::port(&get.port, &named).map_err(anyhow::Error::msg)?;
        if get.scheme.as_deref() == Some("HTTPS") {
            bail!("this kubelet probes by plain HTTP only");
        }
        let url = format!("http://{}:{port}{}", life.address, get.path.as_deref().unwrap_or("/"));
        let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
            .build_http::<http_body_util::Empty<hyper::body::Bytes>>();
        let response = client.get(url.parse()?).await.context("no answer")?;
        let status = response.status();
        let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
        if !(200..400).contains(&status.as_u16()) {
            bail!("HTTP {status}: {}", String::from_utf8_lossy(&body).trim());
        }
    } else if let Some(tcp) = &probe.tcp_socket {
        let port = probe::port(&tcp.port, &named).map_err(anyhow::Error::msg)?;
        tokio::net::TcpStream::connect((life.address, port)).await?;
    } else {
        bail!("this kubelet knows probes by HTTP, TCP and execution only");
    }
    Ok(())
}

/// Makes the root directory and starts the process. An error is the reason and the message that a user sees.
async fn start(life: &Arc<Life>, container: &Container) -> Result<Started, (&'static str, String)> {
    let pod = life.pod();
    let name = container.image.as_deref().unwrap_or_default();
    let Some((kind, image)) = image(name) else {
        return Err(("ErrImagePull", format!("failed to pull image \"{name}\": there is no such image here")));
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut env = env::environment(&pod, container, &life.place(), &life.shared.objects(namespace))
        .map_err(|message| ("CreateContainerConfigError", message))?;
    let resolve = |texts: &Option<Vec<String>>| texts.iter().flatten().map(|text| env::expand(text, &env)).collect::<Vec<_>>();
    let mut command = resolve(&container.command);
    if command.is_empty() {
        command.extend(image.entrypoint.iter().map(|&word| word.to_owned()));
    }
    command.extend(resolve(&container.args));
    env.entry("PATH".into()).or_insert_with(|| image.path.into());
    env.entry("HOSTNAME".into()).or_insert_with(|| life.hostname.clone());
    env.entry("HOME".into()).or_insert_with(|| "/".into());

    let security = container.security_context.clone().unwrap_or_default();
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let number =
        |own: Option<i64>, pods: Option<i64>, default: u32| own.or(pods).and_then(|id| u32::try_from(id).ok()).unwrap_or(default);
    let user = number(security.run_as_user, of_pod.run_as_user, image.user);
    let group = number(security.run_as_group, of_pod.run_as_group, if user == image.user { user } else { 0 });
    if user == 0 && security.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        return Err(("CreateContainerConfigError", "container has runAsNonRoot and image will run as root".into()));
    }
    let mut groups: Vec<String> = of_pod.supplemental_groups.iter().flatten().map(ToString::to_string).collect();
    groups.extend(of_pod.fs_group.map(|group| group.to_string()));
    let read_only = security.read_only_root_filesystem == Some(true);
    let privileged = security.allow_privilege_escalation.unwrap_or(true);

    let outcome = async {
        let directory = life.directory.join("containers").join(&container.name);
        let _ = fs::remove_dir_all(&directory);
        let root = directory.join("root");
        skeleton(life, &root, user, group)?;
        let mut script = script(life, container, &root, kind, image.shell, read_only)?;
        let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
        let groups = if groups.is_empty() { String::new() } else { format!(" --groups={}", groups.join(",")) };
        let _ = writeln!(
            script,
            "exec /usr/bin/setpriv {} /usr/sbin/chroot --userspec={user}:{group}{groups} {} {}",
            if privileged { "--inh-caps=-all" } else { "--no-new-privs --inh-caps=-all" },
            quote(&root.to_string_lossy()),
            words.join(" ")
        );
        let path = directory.join("start.sh");
        fs::write(&path, script)?;
        let log = life.log(&container.name);
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let child = Command::new("/usr/bin/nsenter")
            .arg(format!("--net=/run/netns/{}", life.netns))
            .args([
                "/usr/bin/unshare",
                "--mount",
                "--pid",
                "--ipc",
                "--uts",
                "--fork",
                "--kill-child",
                "--propagation",
                "private",
            ])
            .arg("/bin/sh")
            .arg(&path)
            .env_clear()
            .envs(&env)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()?;
        let parent = child.id().context("it ended at once")?;
        let pid = first_child(parent).await?;
        anyhow::Ok((child, Process { pid, user, group, env: env.clone(), stop: image.stop }))
    }
    .await;
    let (child, process) = outcome.map_err(|error| ("CreateContainerError", format!("{error:#}")))?;
    Ok(Started { child, process, at: Instant::now(), started_at: Time(Timestamp::now()) })
}

/// The process that `unshare` has made, once it is in its root: what is executed beside it is to see the same files.
async fn first_child(parent: u32) -> Result<u32> {
    let mut found = None;
    for _ in 0..1000 {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        if let Some(pid) = children.split_whitespace().next() {
            found = Some(pid.parse()?);
            if fs::read_link(format!("/proc/{pid}/root")).is_ok_and(|root| root != Path::new("/")) {
                break;
            }
        } else if found.is_some() {
            // It has ended: its log says why.
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    found.context("the container's process did not start")
}

/// Files and directories that every root has.
fn skeleton(life: &Life, root: &Path, user: u32, group: u32) -> Result<()> {
    for directory in ["usr/lib", "usr/lib64", "usr/local", "usr/bin", "etc", "proc", "dev", "tmp", "run", "var", "sys", "root"] {
        fs::create_dir_all(root.join(directory))?;
    }
    for (link, to) in [("lib", "usr/lib"), ("lib64", "usr/lib64"), ("bin", "usr/bin"), ("sbin", "usr/sbin")] {
        std::os::unix::fs::symlink(to, root.join(link))?;
    }
    let own = if user == 0 { String::new() } else { format!("user{user}:x:{user}:{group}::/:/bin/sh\n") };
    fs::write(root.join("etc/passwd"), format!("root:x:0:0:root:/root:/bin/sh\n{own}"))?;
    fs::write(root.join("etc/group"), format!("root:x:0:\ngroup{group}:x:{group}:\n"))?;
    fs::write(root.join("etc/nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\n")?;
    fs::write(root.join("etc/hosts"), &life.hosts)?;
    fs::write(root.join("etc/resolv.conf"), &life.resolv_conf)?;
    Ok(())
}

/// The mounts of a root, as a script that runs in the container's namespaces.
fn script(life: &Life, container: &Container, root: &Path, kind: &str, shell: bool, read_only: bool) -> Result<String> {
    let mut out = String::from("set -e\n");
    let root_text = quote(&root.to_string_lossy());
    let _ = writeln!(out, "echo {} > /proc/sys/kernel/hostname", quote(&life.hostname));
    let _ = writeln!(out, "/bin/mount --bind {root_text} {root_text}");
    let mut bind = |from: &Path, to: &str, read_only: bool| {
        let options = if read_only { "bind,ro" } else { "bind" };
        let to = quote(&root.join(to.trim_start_matches('/')).to_string_lossy());
        let _ = writeln!(out, "/bin/mount -o {options} {} {to}", quote(&from.to_string_lossy()));
    };
    let local = life.shared.settings.images.join(kind);
    if shell {
        bind(Path::new("/usr"), "usr", true);
        for directory in ["etc/alternatives", "etc/ssl"] {
            fs::create_dir_all(root.join(directory))?;
            bind(&Path::new("/").join(directory), directory, true);
        }
    } else {
        // As an image that holds one static binary: nothing else can be executed.
        bind(Path::new("/usr/lib"), "usr/lib", true);
        bind(Path::new("/usr/lib64"), "usr/lib64", true);
        // Certificates of public authorities.
        if local.join("ssl").is_dir() {
            fs::create_dir_all(root.join("etc/ssl"))?;
            bind(&local.join("ssl"), "etc/ssl", true);
        }
    }
    bind(&local, "usr/local", true);
    let devices = root.join("dev");
    let _ = writeln!(
        out,
        "/bin/mount -t proc proc {}/proc\n/bin/mount -t tmpfs -o mode=755 tmpfs {}",
        root_text,
        quote(&devices.to_string_lossy())
    );
    let _ = writeln!(out, "cd {}", quote(&devices.to_string_lossy()));
    out.push_str("for d in null zero full random urandom; do : > $d; /bin/mount --bind /dev/$d $d; done\n");
    out.push_str("L=/bin/ln; $L -s /proc/self/fd fd; $L -s /proc/self/fd/0 stdin; $L -s /proc/self/fd/1 stdout; $L -s /proc/self/fd/2 stderr\n");
    out.push_str("/bin/mkdir -m 1777 shm; cd /\n");
    let mut mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
    mounts.sort_by_key(|mount| mount.mount_path.split('/').count());
    for mount in mounts {
        let mut from = life.volume(&mount.name)?;
        if let Some(path) = mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            from = from.join(path);
            if !from.exists() {
                fs::create_dir_all(&from)?;
            }
            from = fs::canonicalize(&from)?;
        }
        let to = root.join(mount.mount_path.trim_start_matches('/'));
        if to.starts_with(&devices) {
            let _ = writeln!(out, "/bin/mkdir -p {}", quote(&to.to_string_lossy()));
        } else if from.is_dir() {
            fs::create_dir_all(&to)?;
        } else {
            fs::create_dir_all(to.parent().unwrap_or(root))?;
            fs::write(&to, "")?;
        }
        let options = if mount.read_only == Some(true) { "bind,ro" } else { "bind" };
        let _ = writeln!(out, "/bin/mount -o {options} {} {}", quote(&from.to_string_lossy()), quote(&to.to_string_lossy()));
    }
    if read_only {
        let _ = writeln!(out, "/bin/mount -o remount,bind,ro {root_text}");
    }
    Ok(out)
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The state of a container that runs.
pub fn running(at: &Time) -> ContainerState {
    ContainerState { running: Some(ContainerStateRunning { started_at: Some(at.clone()) }), ..ContainerState::default() }
}
