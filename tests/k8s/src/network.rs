//! A network namespace for each pod, with an address of its own, reached by a route of the node.

use std::net::Ipv4Addr;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The node, as pods see it.
const GATEWAY: &str = "169.254.1.1";

/// Runs a program that is to succeed; its standard input is `input`.
pub async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{program} cannot be started"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes the namespace `name`, which has `address`.
pub async fn up(name: &str, address: Ipv4Addr) -> Result<()> {
    let link = link(address);
    run("ip", &["netns", "add", name], "").await?;
    run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", name], "").await?;
    let inside = format!(
        "link set lo up\nlink set eth0 up\naddress add {address}/32 dev eth0\nroute add {GATEWAY} dev eth0 scope link\n\
         route add default via {GATEWAY} dev eth0\n"
    );
    run("ip", &["-n", name, "-batch", "-"], &inside).await?;
    let outside = format!("link set {link} up\naddress add {GATEWAY}/32 dev {link}\nroute add {address}/32 dev {link}\n");
    run("ip", &["-batch", "-"], &outside).await?;
    Ok(())
}

/// Takes it away, with the link that leads to it.
pub async fn down(name: &str, address: Ipv4Addr) {
    // The link goes with the namespace as soon as nothing is in it any more; at once if it is taken away here.
    for arguments in [["link", "delete", &link(address)], ["netns", "delete", name]] {
        if let Err(error) = run("ip", &arguments, "").await {
            eprintln!("{error:#}");
        }
    }
}

fn link(address: Ipv4Addr) -> String {
    format!("p{:08x}", address.to_bits())
}
