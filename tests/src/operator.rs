//! The operator, installed from the chart as a user does. Once for each test program.

use std::{path::Path, process::Command, sync::Mutex};

use anyhow::{Context, ensure};
use kube::Client;

use crate::testbed::Testbed;

/// Where the operator is.
pub const NAMESPACE: &str = "cnclip-system";
/// Name of the release, and of its Deployment.
pub const RELEASE: &str = "cnclip";

static INSTALLED: Mutex<bool> = Mutex::new(false);

/// The bed with the operator at work, and an administrator's client.
///
/// # Errors
/// When no bed is up, or Helm cannot install.
pub async fn install_operator() -> anyhow::Result<(Testbed, Client)> {
    let bed = Testbed::from_env()?;
    install_once(&bed)?;
    let client = bed.client().await?;
    Ok((bed, client))
}

fn install_once(bed: &Testbed) -> anyhow::Result<()> {
    let mut installed = INSTALLED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);

    if !*installed {
        install_chart(bed)?;
        *installed = true;
    }

    Ok(())
}

/// The chart's folder.
pub fn chart_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/cn-clip"))
}

fn install_chart(bed: &Testbed) -> anyhow::Result<()> {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: cnclip-system\n  labels: \
                     {pod-security.kubernetes.io/enforce: restricted}\n";
    run_command(
        Command::new(&bed.kubectl)
            .args(["apply", "--server-side", "--filename", "-"])
            .env("KUBECONFIG", &bed.kubeconfig),
        namespace,
    )?;

    let images = [
        format!("image.operator={}", bed.images.operator),
        format!("image.trainer={}", bed.images.trainer),
    ];

    run_command(
        Command::new(&bed.helm)
            .args(["upgrade", "--install", RELEASE])
            .arg(chart_folder())
            .args(["--namespace", NAMESPACE, "--wait", "--timeout", "2m"])
            .args(["--set", "progressIntervalSeconds=1"])
            .args(images.iter().flat_map(|image| ["--set", image]))
            .env("KUBECONFIG", &bed.kubeconfig),
        "",
    )
    .map(drop)
}

/// What a program wrote; it must end well.
///
/// # Errors
/// When it does not; then with its own words.
pub fn run_command(command: &mut Command, input: &str) -> anyhow::Result<String> {
    use std::{io::Write, process::Stdio};
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;

    child
        .stdin
        .take()
        .context("it has an input")?
        .write_all(input.as_bytes())?;

    let output = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {words}",
        output.status
    );

    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
