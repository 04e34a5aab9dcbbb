//! `exec`: runs a command in a container, with its streams connected to ours.

use std::process::ExitCode;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, TerminalSize};
use nix::sys::termios::{self, SetArg, Termios};
use tokio::io::{AsyncWriteExt, copy};
use tokio::signal::unix::{SignalKind, signal};

use super::args::ExecArgs;
use super::connect::Session;
use super::target;

/// Exit code when the command's own is not known.
const UNKNOWN: u8 = 1;

pub(super) async fn run(session: &Session, args: ExecArgs) -> anyhow::Result<ExitCode> {
    let pod = target::pod(session, &args.target).await?;
    let name = pod["metadata"]["name"].as_str().context("the pod has no name")?;
    let annotated =
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    let first = pod["spec"]["containers"][0]["name"].as_str();
    let container =
        args.container.as_deref().or(annotated).or(first).context("the pod has no containers")?;
    let tty = args.tty && termios::tcgetattr(std::io::stdin()).is_ok();
    if args.tty && !tty {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let params = AttachParams::default()
        .container(container)
        .stdin(args.stdin)
        .stdout(true)
        .stderr(!tty)
        .tty(tty);
    let api: Api<Pod> = Api::namespaced(session.client.clone(), &session.namespace);
    let mut process = api.exec(name, &args.command, &params).await?;
    let _raw = if tty { Some(RawTerminal::enter()?) } else { None };
    let resizing =
        process.terminal_size().filter(|_| tty).map(|sizes| tokio::spawn(follow_size(sizes)));
    if let Some(mut stdin) = process.stdin() {
        // Standard input may have no end; the command's end is what counts.
        tokio::spawn(async move {
            let copied = copy(&mut tokio::io::stdin(), &mut stdin).await;
            let closed = stdin.shutdown().await;
            copied.map(drop).and(closed)
        });
    }
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let status = process.take_status().context("the server gives no exit status")?;
    let forward_out = async {
        if let Some(mut stdout) = stdout {
            forward(&mut stdout, tokio::io::stdout()).await?;
        }
        anyhow::Ok(())
    };
    let forward_err = async {
        if let Some(mut stderr) = stderr {
            forward(&mut stderr, tokio::io::stderr()).await?;
        }
        anyhow::Ok(())
    };
    let (forwarded_out, forwarded_err, status) = tokio::join!(forward_out, forward_err, status);
    if let Some(task) = resizing {
        task.abort();
    }
    forwarded_out.and(forwarded_err)?;
    let status = status.context("the connection broke before the command ended")?;
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_ref()?.parse::<u8>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(code))
        }
        None => {
            bail!(status.message.unwrap_or_else(|| format!("the command ended with {UNKNOWN}")))
        }
    }
}

async fn forward(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    mut to: impl tokio::io::AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    use tokio::io::AsyncReadExt;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length]).await?;
        // Somebody may be waiting for a prompt without a line break.
        to.flush().await?;
    }
}

/// A terminal that passes every key on; as it was before when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        let before = termios::tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone by now; then there is nothing to restore.
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

async fn follow_size(
    mut sizes: futures::channel::mpsc::Sender<TerminalSize>,
) -> anyhow::Result<()> {
    use futures::SinkExt;
    let mut changed = signal(SignalKind::window_change())?;
    loop {
        if let Some(size) = terminal_size() {
            sizes.send(size).await?;
        }
        changed.recv().await;
    }
}

fn terminal_size() -> Option<TerminalSize> {
    use std::os::fd::AsRawFd;
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills in the structure that it is given.
    let result = unsafe {
        nix::libc::ioctl(std::io::stdout().as_raw_fd(), nix::libc::TIOCGWINSZ, &raw mut size)
    };
    (result == 0).then_some(TerminalSize { width: size.ws_col, height: size.ws_row })
}
