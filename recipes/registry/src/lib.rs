//! Services and their instances. A service is a container with a znode for each instance, which lives as long
//! as the session that registered it, or until a moment that is put off by heartbeats.

use quorate_recipe::prelude::*;

recipe!(
    r#"
    package quorate:registry@0.1.0;

    /// Services and their instances. An instance is there as long as the session that registered it lives, or,
    /// registered for a time, as long as it is renewed. A service without instances leaves nothing behind.
    ///
    /// That an instance is there says that its session or lease lives, not that it answers: an instance that
    /// is dead is there until its session's timeout or its time is over.
    interface registry {
        /// A property of an instance, for others to read and filter by.
        record tag {
            /// What it is about.
            key: string,
            /// What it is.
            value: string,
        }

        /// One instance of a service.
        record instance {
            /// What it calls itself: unique in the service.
            id: string,
            /// Where it is reached.
            address: string,
            /// Its properties.
            tags: list<tag>,
            /// When it goes unless it is renewed, in milliseconds since the Unix epoch; none if it goes
            /// with a session.
            expires: option<u64>,
        }

        /// A service as it is.
        record service {
            /// Another one after each change, and never an earlier one again but 0, that of a service
            /// without instances.
            version: u64,
            /// Its instances that fit the filter, by their ids.
            instances: list<instance>,
        }

        /// Registers an instance for as long as this session lives, in place of what stands under its id.
        /// Refused if another session has registered that.
        register: func(service: string, id: string, address: string, tags: list<tag>);

        /// Registers an instance for so many milliseconds, a year at most, whatever becomes of the
        /// session. Refused likewise.
        register-for: func(service: string, id: string, address: string, tags: list<tag>, duration-ms: u64);

        /// Keeps an instance that was registered for a time for so many milliseconds from now; says
        /// whether it still was there. Any session may.
        renew: func(service: string, id: string, duration-ms: u64) -> bool;

        /// Takes an instance out: this session's, or one that was registered for a time; says whether
        /// it was there. Refused if it is another session's.
        deregister: func(service: string, id: string) -> bool;

        /// The instances that have all these tags, at most ten thousand.
        resolve: func(service: string, filter: list<tag>) -> service;

        /// Waits until the version is another than `known`, then the same. Of several changes meanwhile,
        /// the last. Every call that waits is woken by every change of the service.
        wait-for-change: func(service: string, filter: list<tag>, known: u64) -> service;

        /// The names of all services that have instances, at most ten thousand.
        services: func() -> list<string>;
    }

    world recipe {
        export registry;
    }
"#
);

/// 366 days: longer is a mistake in the unit.
const MAX_DURATION_MS: u64 = 366 * 24 * 3600 * 1000;

fn register(service: String, id: String, address: String, tags: Vec<Tag>) {
    put(&service, &id, &address, &tags, mine());
}

fn register_for(service: String, id: String, address: String, tags: Vec<Tag>, duration_ms: u64) {
    put(&service, &id, &address, &tags, lasting(duration_ms));
}

fn renew(service: String, id: String, duration_ms: u64) -> bool {
    let path = instance_path(&service, &id);
    let lifetime = lasting(duration_ms);
    match tree::exists(&path) {
        None => false,
        Some(stat) if stat.owner().is_some() => {
            refuse!(
                "the instance {id:?} of {service:?} goes with a session: there is nothing to renew"
            )
        }
        Some(_) => {
            tree::set_lifetime(&path, lifetime);
            true
        }
    }
}

fn deregister(service: String, id: String) -> bool {
    let path = instance_path(&service, &id);
    let Some(stat) = tree::exists(&path) else {
        return false;
    };
    refuse_others(&stat, &service, &id);
    tree::delete(&path);
    true
}

fn resolve(service: String, filter: Vec<Tag>) -> Service {
    require_name(&service);
    let instances = tree::entries(&service, &Range::all());
    let fits = |instance: &Instance| filter.iter().all(|tag| instance.tags.contains(tag));
    Service {
        version: version(&service),
        instances: instances.iter().map(read).filter(fits).collect(),
    }
}

fn wait_for_change(service: String, filter: Vec<Tag>, known: u64) -> Service {
    require_name(&service);
    if version(&service) == known {
        watch::children(&service);
        call::park("");
    }
    resolve(service, filter)
}

fn services() -> Vec<String> {
    tree::children("", &Range::all())
}

fn put(service: &str, id: &str, address: &str, tags: &[Tag], lifetime: Lifetime) {
    let path = instance_path(service, id);
    let mut data = String::new();
    let parts = tags.iter().flat_map(|tag| [&tag.key[..], &tag.value]);
    for part in [address].into_iter().chain(parts) {
        if part.contains('\n') {
            refuse!("{part:?} has a line break");
        }
        data.push_str(part);
        data.push('\n');
    }
    if let Some(stat) = tree::exists(&path) {
        refuse_others(&stat, service, id);
        // Anew, so that the version tells it.
        tree::delete(&path);
    }
    tree::create(&path, data, lifetime);
}

/// The address, then each tag's key and value, a line each.
fn read(child: &Child) -> Instance {
    let mut lines = child.text().lines().map(str::to_owned);
    let address = lines.next().unwrap_or_default();
    let mut tags = Vec::new();
    while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
        tags.push(Tag { key, value });
    }
    let expires = match child.stat.lifetime {
        Lifetime::Until(moment) => Some(moment),
        _ => None,
    };
    Instance {
        id: child.name.clone(),
        address,
        tags,
        expires,
    }
}

fn version(service: &str) -> u64 {
    tree::exists(service).map_or(0, |stat| stat.children_modified)
}

fn instance_path(service: &str, id: &str) -> String {
    require_name(service);
    require_name(id);
    path!(service, id)
}

fn lasting(duration_ms: u64) -> Lifetime {
    if duration_ms == 0 || duration_ms > MAX_DURATION_MS {
        refuse!(
            "an instance is registered for 1 to {MAX_DURATION_MS} milliseconds, not {duration_ms}"
        );
    }
    Lifetime::Until(call::now() + duration_ms)
}

fn refuse_others(stat: &Stat, service: &str, id: &str) {
    if stat.owner().is_some() && !stat.is_mine() {
        refuse!("another session has registered the instance {id:?} of {service:?}");
    }
}
