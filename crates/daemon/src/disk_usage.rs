//! Disk usage of banger's files on this host, and how much of it can be reclaimed.
//!
//! Sizes are allocated bytes: a sparse disk counts what it holds, and a file with several names counts once.

use crate::wire::Services;
use banger_proto::{
    api::{
        artifact::CachePruned,
        host::{DiskUsage, Usage, UsageKind},
    },
    failure::Failure,
    layout::Layout,
    size::ByteSize,
};
use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Measures images, kernels, VMs and the cache.
pub(crate) async fn measure(layout: &Layout, services: &Services) -> Result<DiskUsage, Failure> {
    let images = services.images.list_images().await?;
    let images = images.iter().map(|image| Item {
        // A registered file does not belong to banger: forgetting it frees nothing.
        size: if image.managed { image.size } else { ByteSize(0) },
        in_use: !image.used_by.is_empty(),
    });
    let images = sum(UsageKind::Images, images, "banger image delete IMAGE");
    let kernels = services.images.list_kernels(false).await?;
    let kernels = kernels.iter().map(|kernel| Item {
        size: kernel.size.unwrap_or(ByteSize(0)),
        in_use: !kernel.used_by.is_empty() || !kernel.used_by_images.is_empty(),
    });
    let kernels = sum(UsageKind::Kernels, kernels, "banger kernel rm KERNEL");
    let vms = services.vms.list(false).await?;
    let directories: Vec<(PathBuf, bool)> = vms.iter().map(|vm| (layout.vm(&vm.id), vm.state.is_live())).collect();
    // A prune of the cache frees the layers that no pull reads. The rest of the cache makes the next start, build or
    // pull quick.
    let layers = services.images.prune_cache(true).await?;
    let cache = layout.cache.clone();
    // Done on the blocking pool, because a cache has some thousand files.
    let (vms, cache) = tokio::task::spawn_blocking(move || {
        let vms = directories.iter().map(|(path, in_use)| Item { size: allocated(path).0, in_use: *in_use });
        (sum(UsageKind::Vms, vms, "banger vm prune"), cached(&cache, &layers))
    })
    .await
    .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    let usage = vec![images, kernels, vms, cache];
    let all =
        |of: fn(&Usage) -> ByteSize| ByteSize(usage.iter().fold(0, |sum, usage| sum.saturating_add(of(usage).bytes())));
    Ok(DiskUsage { size: all(|usage| usage.size), reclaimable: all(|usage| usage.reclaimable), usage })
}

/// An image, kernel or VM with its size.
struct Item {
    size: ByteSize,
    in_use: bool,
}

fn sum(kind: UsageKind, items: impl Iterator<Item = Item>, reclaim: &str) -> Usage {
    let nothing =
        Usage { kind, count: 0, in_use: 0, size: ByteSize(0), reclaimable: ByteSize(0), reclaim: reclaim.to_owned() };
    items.fold(nothing, |mut usage, item| {
        usage.count += 1;
        usage.in_use += u64::from(item.in_use);
        usage.size.0 = usage.size.0.saturating_add(item.size.bytes());
        if !item.in_use {
            usage.reclaimable.0 = usage.reclaimable.0.saturating_add(item.size.bytes());
        }
        usage
    })
}

fn cached(directory: &Path, layers: &CachePruned) -> Usage {
    let (size, count) = allocated(directory);
    let reclaim = "banger image cache prune".to_owned();
    // On a file system that compresses, less is allocated than the layer's bytes.
    let reclaimable = layers.bytes.min(size);
    Usage { kind: UsageKind::Cache, count, in_use: layers.in_use, size, reclaimable, reclaim }
}

/// Returns the bytes and the number of the files below `directory`. Links are not followed, and files that vanish
/// meanwhile count as nothing.
fn allocated(directory: &Path) -> (ByteSize, u64) {
    let (mut bytes, mut count) = (0_u64, 0);
    let mut seen = HashSet::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                todo.push(entry.path());
            } else if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
                bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
                count += 1;
            }
        }
    }
    (ByteSize(bytes), count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_what_they_hold_and_each_once() {
        let temp = tempfile::tempdir().unwrap();
        let below = temp.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("data"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(below.join("data"), temp.path().join("again")).unwrap();
        fs::File::create(below.join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/", below.join("link")).unwrap();
        let (size, count) = allocated(temp.path());
        assert!((1 << 20..2 << 20).contains(&size.bytes()), "{size}");
        assert_eq!(count, 3);
        assert_eq!(allocated(&temp.path().join("missing")), (ByteSize(0), 0));
    }

    #[test]
    fn what_is_in_use_is_not_reclaimable() {
        let items = [(3, true), (5, false)].map(|(mib, in_use)| Item { size: ByteSize::mib(mib), in_use });
        let usage = sum(UsageKind::Vms, items.into_iter(), "x");
        assert_eq!((usage.count, usage.in_use), (2, 1));
        assert_eq!((usage.size, usage.reclaimable), (ByteSize::mib(8), ByteSize::mib(5)));
    }
}
