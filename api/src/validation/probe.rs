//! Probes and lifecycle handlers of containers.

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction,
    TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::names;
use super::path::{Errors, Path, list, text};

/// What a probe decides about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Liveness,
    Readiness,
    Startup,
}

/// Checks a probe.
pub(super) fn probe(errors: &mut Errors, probe: &Probe, purpose: Purpose, path: &Path<'_>) {
    let handlers = Handlers {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    handlers.check(errors, 0, path);
    errors.counts(
        path,
        &[
            ("initialDelaySeconds", probe.initial_delay_seconds),
            ("timeoutSeconds", probe.timeout_seconds),
            ("periodSeconds", probe.period_seconds),
            ("successThreshold", probe.success_threshold),
            ("failureThreshold", probe.failure_threshold),
        ],
    );
    let grace = path.child("terminationGracePeriodSeconds");
    match probe.termination_grace_period_seconds {
        Some(seconds) if purpose == Purpose::Readiness => {
            errors.invalid(&grace, seconds, "must not be set for readinessProbes");
        }
        Some(seconds) if seconds <= 0 => errors.invalid(&grace, seconds, "must be greater than 0"),
        _ => {}
    }
    let successes = probe.success_threshold.unwrap_or_default();
    if purpose != Purpose::Readiness && successes != 1 {
        errors.invalid(&path.child("successThreshold"), successes, "must be 1");
    }
}

/// Checks a lifecycle: each handler does exactly one thing.
pub(super) fn lifecycle(errors: &mut Errors, lifecycle: &Lifecycle, grace: i64, path: &Path<'_>) {
    for (field, handler) in
        [("postStart", lifecycle.post_start.as_ref()), ("preStop", lifecycle.pre_stop.as_ref())]
    {
        if let Some(handler) = handler {
            lifecycle_handler(errors, handler, grace, &path.child(field));
        }
    }
}

fn lifecycle_handler(errors: &mut Errors, handler: &LifecycleHandler, grace: i64, path: &Path<'_>) {
    let handlers = Handlers {
        exec: handler.exec.as_ref(),
        http_get: handler.http_get.as_ref(),
        tcp_socket: handler.tcp_socket.as_ref(),
        grpc: None,
        sleep: handler.sleep.as_ref(),
    };
    handlers.check(errors, grace, path);
}

/// The ways to probe or to be called, of which one has to be chosen.
struct Handlers<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl Handlers<'_> {
    /// The first handler is checked, further ones are refused. `grace` bounds
    /// a sleep.
    fn check(&self, errors: &mut Errors, grace: i64, path: &Path<'_>) {
        let present = [
            ("exec", self.exec.is_some()),
            ("httpGet", self.http_get.is_some()),
            ("tcpSocket", self.tcp_socket.is_some()),
            ("grpc", self.grpc.is_some()),
            ("sleep", self.sleep.is_some()),
        ];
        let mut chosen = present.iter().filter(|(_, present)| *present).map(|(field, _)| *field);
        match chosen.next() {
            None => errors.required(path, "must specify a handler type"),
            Some(field) => self.check_one(errors, field, grace, &path.child(field)),
        }
        for field in chosen {
            errors.forbidden(&path.child(field), "may not specify more than 1 handler type");
        }
    }

    fn check_one(&self, errors: &mut Errors, field: &str, grace: i64, path: &Path<'_>) {
        match field {
            "exec" if self.exec.is_some_and(|action| list(&action.command).is_empty()) => {
                errors.required(&path.child("command"), "");
            }
            "httpGet" => {
                if let Some(action) = self.http_get {
                    http_get(errors, action, path);
                }
            }
            "tcpSocket" => {
                if let Some(action) = self.tcp_socket {
                    port(errors, &action.port, &path.child("port"));
                }
            }
            "grpc" => {
                if let Some(action) = self.grpc {
                    let number = i64::from(action.port);
                    for message in names::port_number(number) {
                        errors.invalid(&path.child("port"), number, message);
                    }
                }
            }
            "sleep" => {
                if let Some(action) = self.sleep
                    && !(0..=grace).contains(&action.seconds)
                {
                    let detail = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds \
                         ({grace})"
                    );
                    errors.invalid(path, action.seconds, detail);
                }
            }
            _ => {}
        }
    }
}

fn http_get(errors: &mut Errors, action: &HTTPGetAction, path: &Path<'_>) {
    if text(&action.path).is_empty() {
        errors.required(&path.child("path"), "");
    }
    port(errors, &action.port, &path.child("port"));
    let scheme = action.scheme.as_deref().unwrap_or_default();
    errors.one_of(&path.child("scheme"), Some(scheme), &["HTTP", "HTTPS"]);
    for header in list(&action.http_headers) {
        let messages = names::http_header_name(&header.name);
        errors.invalid_each(&path.child("httpHeaders"), &header.name, messages);
    }
}

/// A port of a container, by number or name.
fn port(errors: &mut Errors, port: &IntOrString, path: &Path<'_>) {
    match port {
        IntOrString::Int(number) => {
            for message in names::port_number(i64::from(*number)) {
                errors.invalid(path, *number, message);
            }
        }
        IntOrString::String(name) => errors.invalid_each(path, name, names::port_name(name)),
    }
}
