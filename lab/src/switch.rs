//! The switch: a bridge that joins the machines' network cards.
//!
//! A partition is a second bridge. Ports that are moved to it see each other
//! and nobody else, as when a cable between two switches is pulled; healing
//! moves them back.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth};

use crate::netns;
use crate::plan::{Machine, PREFIX_LEN, Plan, SWITCH_ADDRESS};

/// The bridge that machines are on unless they are cut off.
const BRIDGE: &str = "skiffbr0";
/// A machine's network card, in its own namespace.
const CARD: &str = "eth0";

/// Makes the switch, the machines' namespaces and the wires between them.
pub fn ensure(plan: &Plan) -> io::Result<()> {
    netns::ensure(&plan.switch)?;
    netns::run_in(&plan.switch, || async {
        let handle = connect()?;
        up(&handle, "lo").await?;
        if index(&handle, BRIDGE).await?.is_none() {
            handle
                .link()
                .add(LinkBridge::new(BRIDGE).build())
                .execute()
                .await
                .map_err(io::Error::other)?;
            add_address(&handle, BRIDGE, SWITCH_ADDRESS).await?;
        }
        up(&handle, BRIDGE).await
    })?;
    for machine in &plan.machines {
        ensure_machine(plan, machine)?;
    }
    Ok(())
}

fn ensure_machine(plan: &Plan, machine: &Machine) -> io::Result<()> {
    netns::ensure(&machine.namespace)?;
    let namespace = File::open(netns::path(&machine.namespace))?;
    let port = plan.port_name(machine);
    let wired = netns::run_in(&plan.switch, move || async move {
        let handle = connect()?;
        if index(&handle, &port).await?.is_some() {
            return Ok(false);
        }
        // The far end starts under a name that is free here, and gets its
        // final one where it belongs.
        let far = format!("{port}c");
        handle
            .link()
            .add(LinkVeth::new(&port, &far).build())
            .execute()
            .await
            .map_err(io::Error::other)?;
        let bridge = index(&handle, BRIDGE)
            .await?
            .ok_or_else(|| io::Error::other("the switch has no bridge"))?;
        set(&handle, LinkUnspec::new_with_name(&port).controller(bridge).up().build()).await?;
        let moved = LinkUnspec::new_with_name(&far).setns_by_fd(namespace.as_raw_fd()).build();
        set(&handle, moved).await?;
        Ok(true)
    })?;
    if !wired {
        return Ok(());
    }
    let far = format!("{}c", plan.port_name(machine));
    let address = machine.address;
    netns::run_in(&machine.namespace, move || async move {
        let handle = connect()?;
        up(&handle, "lo").await?;
        let index = index(&handle, &far)
            .await?
            .ok_or_else(|| io::Error::other("the network card is missing"))?;
        set(&handle, LinkUnspec::new_with_index(index).name(CARD).build()).await?;
        add_address(&handle, CARD, address).await?;
        up(&handle, CARD).await
    })
}

/// Cuts `machines` off from all others; among themselves they still talk.
pub fn partition(plan: &Plan, machines: &[&Machine]) -> io::Result<()> {
    let ports: Vec<String> = machines.iter().map(|machine| plan.port_name(machine)).collect();
    netns::run_in(&plan.switch, move || async move {
        let handle = connect()?;
        let mut number = 1;
        while index(&handle, &format!("skiffbr{number}")).await?.is_some() {
            number += 1;
        }
        let island = format!("skiffbr{number}");
        handle
            .link()
            .add(LinkBridge::new(&island).up().build())
            .execute()
            .await
            .map_err(io::Error::other)?;
        plug(&handle, &ports, &island).await
    })
}

/// Joins everything again.
pub fn heal(plan: &Plan) -> io::Result<()> {
    let ports: Vec<String> = plan.machines.iter().map(|machine| plan.port_name(machine)).collect();
    netns::run_in(&plan.switch, move || async move {
        let handle = connect()?;
        plug(&handle, &ports, BRIDGE).await?;
        let mut number = 1;
        while let Some(index) = index(&handle, &format!("skiffbr{number}")).await? {
            handle.link().del(index).execute().await.map_err(io::Error::other)?;
            number += 1;
        }
        Ok(())
    })
}

/// Removes the machines and the switch, carrying on past failures.
pub fn remove(plan: &Plan) -> Vec<io::Error> {
    let machines = plan.machines.iter().map(|machine| &machine.namespace);
    machines.chain([&plan.switch]).filter_map(|name| netns::remove(name).err()).collect()
}

async fn plug(handle: &Handle, ports: &[String], bridge: &str) -> io::Result<()> {
    let bridge =
        index(handle, bridge).await?.ok_or_else(|| io::Error::other("the bridge is missing"))?;
    for port in ports {
        set(handle, LinkUnspec::new_with_name(port).controller(bridge).build()).await?;
    }
    Ok(())
}

fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    // Ends with its handle, and its runtime with the thread.
    tokio::spawn(connection);
    Ok(handle)
}

async fn index(handle: &Handle, name: &str) -> io::Result<Option<u32>> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ENODEV => {
            Ok(None)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

async fn set(handle: &Handle, message: netlink_packet_route::link::LinkMessage) -> io::Result<()> {
    handle.link().set(message).execute().await.map_err(io::Error::other)
}

async fn up(handle: &Handle, name: &str) -> io::Result<()> {
    set(handle, LinkUnspec::new_with_name(name).up().build()).await
}

async fn add_address(handle: &Handle, name: &str, address: Ipv4Addr) -> io::Result<()> {
    let index =
        index(handle, name).await?.ok_or_else(|| io::Error::other(format!("{name} is missing")))?;
    handle
        .address()
        .add(index, IpAddr::V4(address), PREFIX_LEN)
        .execute()
        .await
        .map_err(io::Error::other)
}
