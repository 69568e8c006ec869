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

        /// Some of a service's instances.
        record instance-page {
            /// The service's: if the next page has another one, the service has changed in between.
            version: u64,
            /// By their ids; there may be none of them on a page that is not the last.
            instances: list<instance>,
            /// The `after` of the next page; none if these were the last.
            next: option<string>,
        }

        /// Some of the services' names.
        record name-page {
            /// In byte order.
            names: list<string>,
            /// The `after` of the next page; none if these were the last.
            next: option<string>,
        }

        /// Registers an instance for as long as this session lives, in place of what stands under its id.
        /// Address and tags have 4 KiB at most (`instance-bytes`), in 32 tags (`tags`). Refused if another
        /// session has registered that id.
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

        /// The instances that have all these tags, of which a filter has 32 at most (`tags`). Refused if that
        /// does not fit one answer, or the service has more than about 5,000 instances, or 512 KiB of them:
        /// `resolve-after` gives them too.
        resolve: func(service: string, filter: list<tag>) -> service;

        /// The same of the ids behind `after`, in their order: `most` at most, and what fits one answer. With
        /// none it begins at the first.
        resolve-after: func(service: string, filter: list<tag>, after: option<string>, most: u32) -> instance-page;

        /// Waits until the version is another than `known`, then the same. Of several changes meanwhile,
        /// the last. Every call that waits is woken by every change of the service. Refused where `resolve`
        /// is: `wait-for-version` and `resolve-after` do the same.
        wait-for-change: func(service: string, filter: list<tag>, known: u64) -> service;

        /// Waits likewise, and gives the version alone.
        wait-for-version: func(service: string, known: u64) -> u64;

        /// The names of all services that have instances, if they fit one answer: 5,000, and 512 KiB. Refused
        /// if there are more: `services-after` gives them too.
        services: func() -> list<string>;

        /// The names behind `after`: `most` at most, and what fits one answer. With none it begins at the
        /// first.
        services-after: func(after: option<string>, most: u32) -> name-page;
    }

    world recipe {
        export registry;
    }
"#
);

/// 366 days: longer is a mistake in the unit.
const MAX_DURATION_MS: u64 = 366 * 24 * 3600 * 1000;

/// Address and tags of one instance: they are read by all, with those of all others.
const MAX_INSTANCE_BYTES: usize = 4 << 10;

/// Tags of an instance, and of a filter: each of these is looked for among each instance's.
const MAX_TAGS: usize = 32;

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
    require_tags(&filter);
    let page = page::read(&service, |child| fitting(&child, &filter));
    Service {
        version: version(&service),
        instances: page.all_or_refuse("resolve-after"),
    }
}

fn resolve_after(
    service: String,
    filter: Vec<Tag>,
    after: Option<String>,
    most: u32,
) -> InstancePage {
    require_name(&service);
    require_tags(&filter);
    let page = page::read_after(&service, after, most, |child| fitting(&child, &filter));
    InstancePage {
        version: version(&service),
        instances: page.items,
        next: page.next,
    }
}

fn wait_for_change(service: String, filter: Vec<Tag>, known: u64) -> Service {
    require_tags(&filter);
    wait_for_version(service.clone(), known);
    resolve(service, filter)
}

fn wait_for_version(service: String, known: u64) -> u64 {
    require_name(&service);
    let version = version(&service);
    if version == known {
        watch::children(&service);
        call::park("");
    }
    version
}

fn services() -> Vec<String> {
    page::names("").all_or_refuse("services-after")
}

fn services_after(after: Option<String>, most: u32) -> NamePage {
    let page = page::names_after("", after, most);
    NamePage {
        names: page.items,
        next: page.next,
    }
}

fn require_tags(tags: &[Tag]) {
    bound::require_most("tags", tags.len() as u64, MAX_TAGS as u64);
}

/// An instance that has all these tags; and what it takes to look at it, and its bytes as JSON.
fn fitting(child: &Child, filter: &[Tag]) -> (Option<Instance>, usize) {
    // Before anything is made of it: most may be left out.
    let (_, tags) = parts(child);
    let cost = child.data.len() + tags.len() * (40 + 2 * filter.len());
    let has = |tag: &Tag| tags.contains(&(&tag.key, &tag.value));
    if !filter.iter().all(has) {
        return (None, cost);
    }
    let instance = read(child);
    let of_tag = |tag: &Tag| 20 + page::json_bytes(&tag.key) + page::json_bytes(&tag.value);
    let bytes = 80
        + page::json_bytes(&instance.id)
        + page::json_bytes(&instance.address)
        + instance.tags.iter().map(of_tag).sum::<usize>();
    (Some(instance), cost + bytes)
}

fn put(service: &str, id: &str, address: &str, tags: &[Tag], lifetime: Lifetime) {
    let path = instance_path(service, id);
    require_tags(tags);
    let mut data = String::new();
    let parts = tags.iter().flat_map(|tag| [&tag.key[..], &tag.value]);
    for part in [address].into_iter().chain(parts) {
        if part.contains(['\n', '\r']) {
            let shown: String = part.chars().take(100).collect();
            refuse!("{shown:?} has a line break");
        }
        data.push_str(part);
        data.push('\n');
    }
    bound::require_bytes("instance-bytes", &data, MAX_INSTANCE_BYTES);
    if let Some(stat) = tree::exists(&path) {
        refuse_others(&stat, service, id);
        // Anew, so that the version tells it.
        tree::delete(&path);
    }
    tree::create(&path, data, lifetime);
}

fn read(child: &Child) -> Instance {
    let (address, tags) = parts(child);
    let tag = |(key, value): (&str, &str)| Tag {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let expires = match child.stat.lifetime {
        Lifetime::Until(moment) => Some(moment),
        _ => None,
    };
    Instance {
        id: child.name.clone(),
        address: address.to_owned(),
        tags: tags.into_iter().map(tag).collect(),
        expires,
    }
}

/// The address, then each tag's key and value, a line each.
fn parts(child: &Child) -> (&str, Vec<(&str, &str)>) {
    let mut lines = child.text().lines();
    let address = lines.next().unwrap_or_default();
    let mut tags = Vec::new();
    while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
        tags.push((key, value));
    }
    (address, tags)
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
