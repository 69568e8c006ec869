//! The tree below a mount as one run sees and changes it.

use bytes::Bytes;
use quorate_model::acl::Acl;
use quorate_model::id::SessionId;
use quorate_model::path::{RelativePath, ZnodePath};
use quorate_model::recipe::Mount;
use quorate_model::run::{Breach, Child, Range, TreeAccess, TreeError};
use quorate_model::write_set::Change;
use quorate_model::znode::{Lifetime, MAX_DATA_BYTES, Node, Stat};

use crate::apply::Records;
use crate::operations::znode::{create_node, delete_node, expect_end_fits, set_data};
use crate::view::View;

/// The leader's view, narrowed to a mount.
pub(crate) struct MountTree {
    pub(crate) view: View,
    pub(crate) mount: Mount,
    /// Whose run it is. None of a standing run, which gives no znode to a session (rule C10).
    session: SessionId,
    /// The znodes that the run created and gave to that session; those for others' are not the call's (rule C3).
    pub(crate) created: Vec<ZnodePath>,
    /// Bytes of paths and data written so far, those that it has undone itself included.
    pub(crate) written_bytes: u64,
}

impl MountTree {
    pub(crate) fn new(view: View, mount: Mount, session: SessionId) -> MountTree {
        MountTree {
            view,
            mount,
            session,
            created: Vec::new(),
            written_bytes: 0,
        }
    }

    fn count_written(&mut self, path: &ZnodePath, data: &[u8]) {
        self.written_bytes += (path.as_str().len() + data.len()) as u64;
    }

    fn absolute(&self, path: &RelativePath) -> Result<ZnodePath, Breach> {
        self.mount
            .path
            .below(path)
            .map_err(|error| Breach(error.to_string()))
    }

    /// The mount's own znode is the operator's.
    fn below(&self, path: &RelativePath, what: &str) -> Result<ZnodePath, Breach> {
        if path.as_str().is_empty() {
            return Err(Breach(format!(
                "a recipe cannot {what} its mount itself (path \"\"): that is the operator's"
            )));
        }
        self.absolute(path)
    }

    fn expect_lifetime(&self, lifetime: Lifetime) -> Result<(), TreeError> {
        match lifetime {
            Lifetime::Persistent | Lifetime::Container => Ok(()),
            Lifetime::Session(_) if self.session == SessionId::NONE => Err(Breach(
                "the run has no session (a standing one never has), so it gives no znode the lifetime of one".into(),
            )
            .into()),
            Lifetime::Session(session) => {
                self.view.session(session).map(|_| ()).ok_or(TreeError::NoSession)
            }
            Lifetime::Until(moment) if moment <= self.view.moment().time => Err(Breach(
                "the lifetime until(t) needs a t after call.now: no run sees a znode whose moment has come"
                    .into(),
            )
            .into()),
            Lifetime::Until(_) => Ok(()),
        }
    }

    /// Creates what is missing of `path` as containers, from the mount down.
    fn expect_parent(&mut self, path: &ZnodePath) -> Result<(), TreeError> {
        let missing: Vec<ZnodePath> = path
            .upwards()
            .take_while(|path| self.view.stat(path).is_none())
            .collect();
        let top = missing
            .last()
            .and_then(ZnodePath::parent)
            .unwrap_or_else(|| path.clone());
        if self
            .view
            .stat(&top)
            .is_some_and(|stat| !stat.lifetime.allows_children())
        {
            return Err(Breach(format!(
                "{top} cannot have children: its lifetime is a session's or until a moment"
            ))
            .into());
        }
        for path in missing.iter().rev() {
            create_node(
                &mut self.view,
                path,
                Bytes::new(),
                Acl::open(),
                Lifetime::Container,
            );
        }
        Ok(())
    }

    fn create_at(
        &mut self,
        path: &ZnodePath,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<(), TreeError> {
        expect_data_fits(&data)?;
        self.expect_lifetime(lifetime)?;
        if self.view.stat(path).is_some() {
            return Err(TreeError::NodeExists);
        }
        expect_end_fits(&self.view, lifetime).map_err(TreeError::SessionFull)?;
        if let Some(parent) = path.parent() {
            self.expect_parent(&parent)?;
        }
        self.count_written(path, &data);
        create_node(&mut self.view, path, data, Acl::open(), lifetime);
        if lifetime == Lifetime::Session(self.session) {
            self.created.push(path.clone());
        }
        Ok(())
    }
}

impl TreeAccess for MountTree {
    fn get(&mut self, path: &RelativePath) -> Result<Option<Node>, Breach> {
        Ok(self.view.node(&self.absolute(path)?))
    }

    fn exists(&mut self, path: &RelativePath) -> Result<Option<Stat>, Breach> {
        Ok(self.view.stat(&self.absolute(path)?))
    }

    fn children(&mut self, path: &RelativePath, range: &Range) -> Result<Vec<String>, Breach> {
        Ok(self
            .view
            .children(&self.absolute(path)?, range)
            .unwrap_or_default())
    }

    fn entries(&mut self, path: &RelativePath, range: &Range) -> Result<Vec<Child>, Breach> {
        Ok(self
            .view
            .entries(&self.absolute(path)?, range)
            .unwrap_or_default())
    }

    fn missing_parents(&mut self, path: &RelativePath) -> Result<usize, Breach> {
        let path = self.absolute(path)?;
        let above = path.upwards().skip(1);
        Ok(above
            .take_while(|path| self.view.stat(path).is_none())
            .count())
    }

    fn create(
        &mut self,
        path: &RelativePath,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<(), TreeError> {
        if path.as_str().is_empty() {
            return Err(TreeError::NodeExists);
        }
        let path = self.absolute(path)?;
        self.create_at(&path, data, lifetime)
    }

    fn create_sequential(
        &mut self,
        parent: &RelativePath,
        prefix: &str,
        data: Bytes,
        lifetime: Lifetime,
    ) -> Result<String, TreeError> {
        let parent = self.absolute(parent)?;
        let number = self.mount.next_sequence;
        let name = format!("{prefix}{number:016}");
        let path = parent
            .child(&name)
            .map_err(|error| Breach(error.to_string()))?;
        self.create_at(&path, data, lifetime)?;
        self.mount.next_sequence = number + 1;
        self.view.change(Change::SetSequence {
            mount: self.mount.path.clone(),
            next: number + 1,
        });
        Ok(name)
    }

    fn set(&mut self, path: &RelativePath, data: Bytes) -> Result<(), TreeError> {
        let path = self.below(path, "set the data of")?;
        expect_data_fits(&data)?;
        let stat = self.view.stat(&path).ok_or(TreeError::NoNode)?;
        self.count_written(&path, &data);
        set_data(&mut self.view, &path, &stat, data);
        Ok(())
    }

    fn set_lifetime(&mut self, path: &RelativePath, lifetime: Lifetime) -> Result<(), TreeError> {
        let path = self.below(path, "set the lifetime of")?;
        self.expect_lifetime(lifetime)?;
        let stat = self.view.stat(&path).ok_or(TreeError::NoNode)?;
        if stat.children > 0 && !lifetime.allows_children() {
            return Err(TreeError::NotEmpty);
        }
        // What is its session's already stays that, also if the session owns more than it may.
        if stat.lifetime != lifetime {
            expect_end_fits(&self.view, lifetime).map_err(TreeError::SessionFull)?;
        }
        self.count_written(&path, &[]);
        self.view.change(Change::SetLifetime { path, lifetime });
        Ok(())
    }

    fn delete(&mut self, path: &RelativePath) -> Result<(), TreeError> {
        let path = self.below(path, "delete")?;
        let stat = self.view.stat(&path).ok_or(TreeError::NoNode)?;
        if stat.children > 0 {
            return Err(TreeError::NotEmpty);
        }
        self.count_written(&path, &[]);
        delete_node(&mut self.view, &path);
        Ok(())
    }
}

fn expect_data_fits(data: &Bytes) -> Result<(), Breach> {
    if data.len() > MAX_DATA_BYTES {
        return Err(Breach(format!(
            "{} bytes of data for one znode: at most {MAX_DATA_BYTES} fit",
            data.len()
        )));
    }
    Ok(())
}
