//! `skiff member` and `skiff status`: who the masters are, and how they are.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use kube::Client;
use skiff_apiserver::join::{self, Purpose};
use skiff_apiserver::members::{Group, MEMBERS_PATH};

use super::args::{MemberArgs, MemberCommand, StatusArgs};
use super::token;

/// How long a master may take to answer; a group without a leader answers too.
const PATIENCE: Duration = Duration::from_secs(15);

/// What masters have whose state is in etcd.
const IN_ETCD: &str = "the cluster's state is in etcd, whose members `etcdctl member` lists and \
    changes; a machine becomes one more master when it is started with the same `--store` and `pki`";

/// Lists and changes the masters through the API of the one on this machine.
pub(super) async fn run(args: MemberArgs) -> anyhow::Result<()> {
    let kubeconfig = args.master.kubeconfig();
    let client = token::client(&kubeconfig)?;
    match args.command {
        MemberCommand::List => print!("{}", table(&of_members(ask(&client, "GET", "").await?)?)),
        MemberCommand::Add => {
            let group = of_members(ask(&client, "GET", "").await?)?;
            let pin = token::ca_pin(&kubeconfig)?;
            let ttl = join::DEFAULT_TTL;
            let made = join::create_token_for(&client, &pin, Purpose::Master, ttl).await?;
            let own = group.members.iter().find(|member| member.id == group.member);
            let own = own.map_or("HOST:6443", |member| &member.address);
            println!("On the new machine run, within a day:\n");
            println!("  skiff server --join https://{own} --token {made}");
        }
        MemberCommand::Remove { id } => {
            ask(&client, "DELETE", &format!("/{id}")).await?;
            println!("skiff: master {id} is removed; its data can be deleted");
        }
        MemberCommand::Promote { id } => {
            ask(&client, "POST", &format!("/{id}/promote")).await?;
            println!("skiff: master {id} has a vote now");
        }
    }
    Ok(())
}

/// A group that has members of its own.
fn of_members(group: Group) -> anyhow::Result<Group> {
    ensure!(!is_in_etcd(&group), IN_ETCD);
    Ok(group)
}

/// The first member's id is 1; a master on etcd is nobody's member.
fn is_in_etcd(group: &Group) -> bool {
    group.member == 0
}

/// Says how the masters are.
pub(super) async fn status(args: StatusArgs) -> anyhow::Result<()> {
    let client = token::client(&args.master.kubeconfig())?;
    let group = ask(&client, "GET", "").await?;
    if args.output.is_some() {
        println!("{}", serde_json::to_string_pretty(&group)?);
        return Ok(());
    }
    if is_in_etcd(&group) {
        println!("store     etcd\nterm      {}\nrevision  {}", group.term, group.revision);
        return Ok(());
    }
    let leader = group.members.iter().find(|member| member.leader);
    let leader = leader.map_or("none: there is no quorum".to_owned(), |member| {
        format!("{} ({})", member.id, member.name)
    });
    println!("leader    {leader}\nterm      {}\nrevision  {}", group.term, group.revision);
    println!(
        "this      {}, log entry {}, log {} KiB, state {} KiB, sync {} µs",
        group.member,
        group.applied_index,
        group.log_bytes >> 10,
        group.state_bytes >> 10,
        group.sync_micros
    );
    print!("\n{}", table(&group));
    Ok(())
}

/// Asks the master whose data directory this is who leads.
pub(super) async fn group(kubeconfig: &Path) -> anyhow::Result<Group> {
    ask(&token::client(kubeconfig)?, "GET", "").await
}

/// Removes a master from the group, at the one whose kubeconfig this is.
pub(super) async fn remove(kubeconfig: &Path, id: u64) -> anyhow::Result<()> {
    ask(&token::client(kubeconfig)?, "DELETE", &format!("/{id}")).await.map(drop)
}

async fn ask(client: &Client, method: &str, rest: &str) -> anyhow::Result<Group> {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("{MEMBERS_PATH}{rest}"))
        .body(Vec::new())?;
    let answer = tokio::time::timeout(PATIENCE, client.request::<Group>(request)).await;
    answer.context("the master does not answer")?.context("the master refuses")
}

fn table(group: &Group) -> String {
    let mut text =
        format!("{:<4} {:<16} {:<22} {:<8} {:<7} LAG\n", "ID", "NAME", "ADDRESS", "ROLE", "LEADER");
    for member in &group.members {
        let role = if member.voter { "voter" } else { "learner" };
        let lag = match (member.matched_index, member.active) {
            (_, Some(false)) => "silent".to_owned(),
            (Some(matched), _) => group.applied_index.saturating_sub(matched).to_string(),
            (None, _) => "-".to_owned(),
        };
        text.push_str(&format!(
            "{:<4} {:<16} {:<22} {role:<8} {:<7} {lag}\n",
            member.id, member.name, member.address, member.leader
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use skiff_apiserver::members::Member;

    use super::*;

    #[test]
    fn the_table_tells_who_lags() {
        let member = |id: u64, matched_index, active| Member {
            id,
            name: format!("m{id}"),
            address: format!("10.0.0.{id}:6443"),
            voter: id < 3,
            leader: id == 1,
            matched_index,
            active,
        };
        let members = vec![
            member(1, None, None),
            member(2, Some(7), Some(true)),
            member(3, Some(1), Some(false)),
        ];
        let group = Group {
            member: 1,
            term: 2,
            applied_index: 9,
            revision: 5,
            log_bytes: 0,
            state_bytes: 0,
            syncs: 0,
            sync_micros: 0,
            members,
        };
        let text = table(&of_members(group.clone()).unwrap());
        let in_etcd = of_members(Group { member: 0, members: Vec::new(), ..group });
        assert!(in_etcd.unwrap_err().to_string().contains("`etcdctl member`"));
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["1", "m1", "10.0.0.1:6443", "voter", "true", "-"]);
        assert_eq!(rows[2][5], "2");
        assert_eq!((rows[3][3], rows[3][5]), ("learner", "silent"));
    }
}
