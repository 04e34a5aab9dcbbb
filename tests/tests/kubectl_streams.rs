//! What `kubectl` does with bytes of pods: `cp`, `port-forward`, `exec`,
//! `attach`, `logs` and `top`, with the machine's client and with the oldest,
//! which knows SPDY alone. One lab of one node serves all clients.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, ttyname};
use serde_json::{Value, json};
use skiff_tests::{Kubectl, Lab, Output, eventually, run, step};

const LIMIT: Duration = Duration::from_secs(60);

/// More than any buffer on the way holds.
const MUCH: usize = 3 << 20;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: httpd
    image: skiff-example/busybox:latest
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www"]
    ports: [{containerPort: 8080, name: http}]
  - name: echo
    image: skiff-example/busybox:latest
    imagePullPolicy: IfNotPresent
    stdin: true
    command: [sh, -c, "while read line; do echo heard $line; done"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
"#;

/// More lines than one file of a log holds, numbered, slow enough to be
/// followed; then another try.
const LINES: usize = 15_000;
const NUMBERS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: numbers}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: OnFailure
  containers:
  - name: c
    image: skiff-example/busybox:latest
    imagePullPolicy: IfNotPresent
    command:
    - sh
    - -c
    - |
      if [ -e /scratch/once ]; then echo again; exec sleep 3600; fi
      touch /scratch/once
      pad=$(head -c 990 /dev/zero | tr '\0' x)
      i=0
      while [ $i -lt 15000 ]; do
        i=$((i+1))
        echo $i $pad
        [ $((i%100)) = 0 ] && sleep 0.01
      done
      exit 1
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {}}]
"#;

/// One client and the lab.
struct Side<'a> {
    lab: &'a Lab,
    client: Kubectl,
}

impl Side<'_> {
    fn kubectl(&self, line: &str) -> Output {
        self.kubectl_with(line, None)
    }

    fn kubectl_with(&self, line: &str, input: Option<&str>) -> Output {
        let words: Vec<&str> = line.split(' ').collect();
        run(self.client.command(&self.lab.kubeconfig(), &words), input)
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process says, line by line.
struct Lines(mpsc::Receiver<String>);

impl Lines {
    fn of(said: impl Read + Send + 'static) -> Self {
        let (tx, rx) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(said).lines().map_while(Result::ok);
            // The test may have stopped listening.
            lines.try_for_each(|line| tx.send(line))
        });
        Self(rx)
    }

    /// The first line from now on that contains `text`.
    #[track_caller]
    fn until(&self, text: &str) -> String {
        loop {
            let line = self.0.recv_timeout(LIMIT).unwrap_or_else(|end| panic!("{text}: {end}"));
            if line.contains(text) {
                return line;
            }
        }
    }
}

#[test]
fn bytes_of_pods_come_and_go() {
    let lab = Lab::up(1);
    lab.kubectl_with(&["apply", "-f", "-"], POD).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).ok();
    let folder = tempfile::tempdir().unwrap();
    for client in Kubectl::all() {
        step(&format!("kubectl 1.{}", client.minor()));
        let side = Side { lab: &lab, client };
        copy(&side, folder.path());
        forward(&side);
        talk(&side);
        bulk(&side, folder.path());
        terminal(&side);
        measure(&side);
    }
    follow(&lab);
    follow_terminal(&lab);
}

fn copy(side: &Side<'_>, folder: &Path) {
    step("cp, there and back");
    let here = folder.join(format!("here-{}", side.client.minor()));
    std::fs::create_dir_all(here.join("below")).unwrap();
    let bytes: Vec<u8> = (0..MUCH).map(|n| (n * n % 251) as u8).collect();
    std::fs::write(here.join("below/much"), &bytes).unwrap();
    std::fs::write(here.join("empty"), "").unwrap();
    let there = format!("web:/tmp/from-{}", side.client.minor());
    side.kubectl(&format!("cp {} {there} -c httpd", here.display())).ok();
    let back = folder.join(format!("back-{}", side.client.minor()));
    side.kubectl(&format!("cp {there} {} -c httpd", back.display())).ok();
    assert!(std::fs::read(back.join("below/much")).unwrap() == bytes, "the same bytes");
    assert_eq!(std::fs::read(back.join("empty")).unwrap(), b"");

    let one = folder.join(format!("one-{}", side.client.minor()));
    side.kubectl(&format!("cp web:/www/index.html {} -c httpd", one.display())).ok();
    assert_eq!(std::fs::read_to_string(one).unwrap(), "hello\n");
    let nowhere = folder.join("nowhere");
    // kubectl ends with the archive, which is empty, and may not wait for what
    // tar has to say of it.
    side.kubectl(&format!("cp web:/no/such {} -c httpd", nowhere.display()));
    assert!(!nowhere.exists());
    let missing = side.kubectl("exec web -c httpd -- tar cf - /no/such").refused();
    assert!(missing.contains("/no/such: No such file"), "{missing}");
    let refused = side.kubectl(&format!("cp {} nobody:/tmp/x", here.display())).refused();
    assert!(refused.contains("pods \"nobody\" not found"), "{refused}");
}

fn forward(side: &Side<'_>) {
    step("port-forward to a pod and to a service, many connections on one tunnel");
    for target in ["pod/web :8080", "pod/web :http", "service/web :80"] {
        let words: Vec<&str> = ["port-forward"].into_iter().chain(target.split(' ')).collect();
        let mut command = side.client.command(&side.lab.kubeconfig(), &words);
        let mut forward = Running(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        let mut stdout = BufReader::new(forward.0.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        // Forwarding from 127.0.0.1:40001 -> 8080
        let address = line.split(' ').nth(2).unwrap_or_else(|| panic!("{target}: {line}"));
        let mut open: Vec<TcpStream> =
            (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
        for socket in open.iter_mut().rev() {
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            assert!(answer.ends_with("\r\n\r\nhello\n"), "{target}: {answer:?}");
        }
    }
    let words = ["port-forward", "pod/web", ":9"];
    let mut command = side.client.command(&side.lab.kubeconfig(), &words);
    let mut forward =
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let said = Lines::of(forward.0.stdout.take().unwrap());
    let line = said.until("-> 9");
    let errors = Lines::of(forward.0.stderr.take().unwrap());
    let socket = TcpStream::connect(line.split(' ').nth(2).unwrap()).unwrap();
    let refused = errors.until("forwarding port 9 to pod web");
    assert!(refused.contains("Connection refused"), "{refused}");
    drop((socket, said));
    let refused = side.kubectl("port-forward pod/nobody :80").refused();
    assert!(refused.contains("pods \"nobody\" not found"), "{refused}");
}

fn talk(side: &Side<'_>) {
    step("exec in both directions, attach, logs");
    let text = "line\n".repeat(100_000);
    let through = side.kubectl_with("exec -i web -c httpd -- cat", Some(&text));
    assert!(through.stdout == text, "{} of {} bytes came back", through.stdout.len(), text.len());
    let both =
        side.kubectl("exec web -c httpd -- sh -c echo${IFS}out;echo${IFS}err>&2;exit${IFS}7");
    assert_eq!((both.code, both.stdout.as_str()), (7, "out\n"));
    assert!(both.stderr.starts_with("err\n"), "{both:?}");

    let mut words = vec!["attach", "-i", "web", "-c", "echo"];
    words.push("--pod-running-timeout=30s");
    let mut command = side.client.command(&side.lab.kubeconfig(), &words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut attached = Running(command.spawn().unwrap());
    let mut stdin = attached.0.stdin.take().unwrap();
    let said = format!("hello from 1.{}", side.client.minor());
    writeln!(stdin, "{said}").unwrap();
    let mut stdout = BufReader::new(attached.0.stdout.take().unwrap()).lines();
    let heard = stdout.find(|line| line.as_ref().is_ok_and(|line| line.contains(&said)));
    assert_eq!(heard.unwrap().unwrap(), format!("heard {said}"));
    drop((attached, stdin));
    eventually("the log has what was heard", LIMIT, || {
        let log = side.kubectl("logs web -c echo").result()?;
        if log.contains(&format!("heard {said}")) { Ok(()) } else { Err(log) }
    });
    let both = side.kubectl("logs -l app=web --all-containers --prefix").ok();
    assert!(both.contains("[pod/web/echo] heard"), "{both}");
}

fn bulk(side: &Side<'_>, folder: &Path) {
    step("exec of more than fits anywhere on the way");
    let (there, back) = (folder.join("there"), folder.join("back"));
    let text: String = (0..2_000_000).map(|n| format!("{n}\n")).collect();
    std::fs::write(&there, &text).unwrap();
    let words = ["exec", "-i", "web", "-c", "httpd", "--", "cat"];
    let mut command = side.client.command(&side.lab.kubeconfig(), &words);
    command.stdin(File::open(&there).unwrap()).stdout(File::create(&back).unwrap());
    assert!(command.status().unwrap().success());
    assert!(std::fs::read_to_string(&back).unwrap() == text, "the same bytes");
}

fn terminal(side: &Side<'_>) {
    step("a terminal that changes its size, and a client that goes away");
    let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    let script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.1; done";
    let words = ["exec", "-it", "web", "-c", "httpd", "--", "sh", "-c", script];
    let mut command = side.client.command(&side.lab.kubeconfig(), &words);
    let screen = || Stdio::from(pty.slave.try_clone().unwrap());
    command.stdin(screen()).stdout(screen()).stderr(Stdio::null());
    let shell = Running(command.spawn().unwrap());
    let shown = Lines::of(File::from(pty.master));
    shown.until("30 100");
    let mut stty = Command::new("stty");
    stty.arg("-F").arg(ttyname(&pty.slave).unwrap()).args(["rows", "41", "cols", "137"]);
    run(stty, None).ok();
    kill(Pid::from_raw(shell.0.id().cast_signed()), Signal::SIGWINCH).unwrap();
    shown.until("41 137");
    let left = || side.kubectl("exec web -c httpd -- ps").ok().contains("stty size");
    assert!(left(), "it runs");
    drop(shell);
    eventually("what it ran has ended", LIMIT, || {
        if left() { Err("it still runs".to_owned()) } else { Ok(()) }
    });
}

fn follow(lab: &Lab) {
    step("a log is followed from file to file, each line once");
    lab.kubectl_with(&["apply", "-f", "-"], NUMBERS).ok();
    let log = eventually("its log", LIMIT, || lab.kubectl(&["logs", "-f", "numbers"]).result());
    let numbers = log.lines().map(|line| line.split(' ').next().unwrap_or_default());
    let numbers: Vec<usize> = numbers.map(|number| number.parse().unwrap()).collect();
    let jump = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]);
    assert_eq!((numbers.len(), jump), (LINES, None));

    step("the log of the try before, lines by their number and time, a part of one");
    eventually("the next try", LIMIT, || {
        let said = lab.kubectl(&["logs", "numbers"]).result()?;
        if said == "again" { Ok(()) } else { Err(said.chars().take(80).collect()) }
    });
    let before = |more: &[&str]| lab.kubectl(&[&["logs", "-p", "numbers"], more].concat()).ok();
    let last = before(&["--tail=2", "--timestamps"]);
    let last: Vec<&str> = last.lines().collect();
    assert_eq!(last.len(), 2);
    let (at, line) = last[0].split_once(' ').unwrap();
    assert!(line.starts_with("14999 x"), "{line}");
    let since = before(&[&format!("--since-time={at}")]);
    assert!(since.ends_with(last[1].split_once(' ').unwrap().1));
    assert!(since.lines().count() < LINES, "not all of it");
    assert_eq!(before(&["--tail=1", "--limit-bytes=9"]), "15000 xxx");
}

fn follow_terminal(lab: &Lab) {
    step("a terminal's log comes as it is, without waiting for the end of a line");
    let screen = "head -c 50000 /dev/zero | tr '\\0' x; exec sleep 3600";
    let overrides = json!({"spec": {"terminationGracePeriodSeconds": 0, "containers": [
        {"name": "screen", "image": "skiff-example/busybox:latest", "imagePullPolicy": "IfNotPresent",
         "tty": true, "command": ["sh", "-c", screen]}]}});
    let overrides = format!("--overrides={overrides}");
    lab.kubectl(&["run", "screen", "--image=skiff-example/busybox:latest", &overrides]).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/screen", "--timeout=60s"]).ok();
    // `kubectl logs` itself waits for the ends of lines.
    let log = ["get", "--raw", "/api/v1/namespaces/default/pods/screen/log?follow=true"];
    let mut command = Kubectl::machines().command(&lab.kubeconfig(), &log);
    let mut follower = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut log = follower.0.stdout.take().unwrap();
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let mut screen = vec![0; 32 << 10];
        // The test may have stopped listening.
        drop(tx.send(log.read_exact(&mut screen).map(|()| screen)));
    });
    let screen = rx.recv_timeout(LIMIT).expect("the log did not come").unwrap();
    assert!(screen.iter().all(|byte| *byte == b'x'));
}

fn measure(side: &Side<'_>) {
    step("top, of nodes, of pods and of their containers");
    let nodes = side.kubectl("top nodes --no-headers").ok();
    let words: Vec<&str> = nodes.split_whitespace().collect();
    assert_eq!((words.len(), words[0]), (5, "node-1"), "{nodes}");
    let pods = side.kubectl("top pods --no-headers").ok();
    let words: Vec<&str> = pods.split_whitespace().collect();
    assert_eq!((words.len(), words[0]), (3, "web"), "{pods}");
    assert!(words[1].ends_with('m') && words[2].ends_with("Mi"), "{pods}");
    let containers = side.kubectl("top pod web --containers --no-headers").ok();
    assert_eq!(containers.lines().count(), 2, "{containers}");
    side.kubectl("top pod nobody").refused();
    let raw =
        side.kubectl("get --raw /apis/metrics.k8s.io/v1beta1/namespaces/default/pods/web").ok();
    let raw: Value = serde_json::from_str(&raw).unwrap();
    let bytes = raw["containers"][0]["usage"]["memory"].as_str().unwrap();
    assert!(bytes.ends_with("Ki") && bytes != "0Ki", "{raw}");
}
