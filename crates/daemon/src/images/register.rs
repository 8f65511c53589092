//! Images that are files of the user's, used where they lie.

use super::{ImageService, seconds};
use crate::{
    failures::Explain,
    operation::{Operation, blocking},
};
use banger_artifacts::{
    image::{Image, ImageError},
    kernel::{Description, KernelError, Parts},
};
use banger_proto::{
    api::artifact::RegisterImage,
    failure::{Code, Failure},
    name::{ImageName, KernelName},
};
use std::{path::Path, sync::Arc, time::Instant};
use tokio_util::sync::CancellationToken;

impl ImageService {
    /// Makes a file an image without copying it. A kernel file that comes with it is imported, under the image's name:
    /// it is small, and a VM needs it unpacked and indexed anyway.
    pub(crate) async fn register_image(&self, request: RegisterImage, operation: &Operation) -> Result<Image, Failure> {
        check_shape(&request)?;
        let began = Instant::now();
        let RegisterImage { name, rootfs, kernel, kernel_file, initrd, modules, force } = request;
        if let Some(kernel) = &kernel {
            self.know_kernel(kernel).await?;
        }
        operation.begin(format!("registering image {name}"));
        // The cheap step that can fail goes first: a kernel without its image would be left behind.
        let bare = self.register_file(&name, &rootfs, kernel.clone(), operation).await?;
        if let Err(failure) = self.may_have_name(&name, &bare, force).await {
            self.take_back(bare, operation).await;
            return Err(failure);
        }
        let image = match kernel_file {
            None => bare,
            Some(file) => {
                let kernel = kernel_name_for(&name)?;
                let parts = Parts { kernel: file, initrd, modules };
                match self.import_parts(&kernel, parts, force, operation).await {
                    Ok(()) => self.register_file(&name, &rootfs, Some(kernel), operation).await?,
                    Err(failure) => {
                        self.take_back(bare, operation).await;
                        return Err(failure);
                    }
                }
            }
        };
        self.store.name_image(&name, &image.manifest.id).await?;
        operation.notice(format!("registered image {name} in {}", seconds(began)));
        Ok(image)
    }

    async fn register_file(
        &self,
        name: &ImageName,
        rootfs: &Path,
        kernel: Option<KernelName>,
        operation: &Operation,
    ) -> Result<Image, Failure> {
        let (images, name, rootfs) = (self.images.clone(), name.clone(), rootfs.to_owned());
        blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
            images.register(&name, &rootfs, kernel, &job)
        })
        .await
        .map_err(|error| {
            let unfit = matches!(error, ImageError::Register { .. });
            let failure = error.explain();
            if unfit {
                failure.hint("an image is an ext4 file system in a file, unmounted; `e2fsck -f FILE` checks one")
            } else {
                failure
            }
        })
    }

    async fn import_parts(
        &self,
        kernel: &KernelName,
        parts: Parts,
        force: bool,
        operation: &Operation,
    ) -> Result<(), Failure> {
        let (kernels, named) = (self.kernels.clone(), kernel.clone());
        let imported = blocking(Arc::new(operation.clone()), operation.cancel(), move |job| {
            kernels.import_parts(&named, &parts, &Description::default(), force, &job)
        });
        imported.await.map(drop).map_err(|error| {
            let is_taken = matches!(error, KernelError::AlreadyExists { .. });
            let failure = error.explain();
            if is_taken {
                failure.hint(format!("--kernel {kernel} uses it as it is; --force replaces it"))
            } else {
                failure
            }
        })
    }

    /// Whether `name` may point at `image` from now on.
    async fn may_have_name(&self, name: &ImageName, image: &Image, force: bool) -> Result<(), Failure> {
        match self.store.image_named(name).await? {
            Some(other) if other != image.manifest.id && !force => {
                Err(Failure::new(Code::AlreadyExists, format!("there is an image {name} already"))
                    .hint("--force lets the name point at the new one; VMs stay on the image they have"))
            }
            _ => Ok(()),
        }
    }

    /// Takes back a registration that came to nothing, unless it was there before. That it cannot be taken back is a
    /// line in the log: the failure that led here is what the user should hear of.
    async fn take_back(&self, image: Image, operation: &Operation) {
        let id = image.manifest.id;
        let in_use = async {
            let is_named = self.store.image_names().await?.iter().any(|(_, named)| *named == id);
            Ok::<_, Failure>(is_named || !self.store.vms_of_image(&id).await?.is_empty())
        };
        let gone = match in_use.await {
            Ok(true) => return,
            Ok(false) => {
                let (images, id) = (self.images.clone(), id.clone());
                let never = CancellationToken::new();
                blocking(Arc::new(operation.clone()), &never, move |job| images.delete(&id, job.cancel))
                    .await
                    .map(drop)
                    .map_err(Explain::explain)
            }
            Err(failure) => Err(failure),
        };
        if let Err(failure) = gone {
            tracing::error!(image = %id, %failure, "cannot take a registration back");
        }
    }
}

fn check_shape(request: &RegisterImage) -> Result<(), Failure> {
    let files = [&request.kernel_file, &request.initrd, &request.modules];
    let paths = files.into_iter().flatten().chain([&request.rootfs]);
    for path in paths {
        if !path.is_absolute() {
            return Err(Failure::new(Code::Invalid, format!("{} is not an absolute path", path.display())));
        }
    }
    if request.kernel.is_some() && files.iter().any(|file| file.is_some()) {
        return Err(Failure::new(Code::Invalid, "a kernel's name and a kernel's files exclude each other"));
    }
    if request.kernel_file.is_none() && files.iter().any(|file| file.is_some()) {
        return Err(Failure::new(Code::Invalid, "an initrd or modules come with a kernel file"));
    }
    Ok(())
}

/// The name of the kernel that is imported with an image: the image's, as far as a kernel can be called that.
fn kernel_name_for(image: &ImageName) -> Result<KernelName, Failure> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = image.as_str().chars().map(plain).take(64).collect();
    name.replace("..", "-.").parse().map_err(|error: banger_proto::name::InvalidName| {
        Failure::new(Code::Invalid, error.to_string())
            .hint("import the kernel under a name of its own (`banger kernel import`) and give it with --kernel")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_called_like_its_image_as_far_as_it_can_be() {
        for (image, kernel) in [
            ("my", "my"),
            ("alpine:3.20", "alpine-3.20"),
            ("registry.local:5000/team/app:v1", "registry.local-5000-team-app-v1"),
            ("a..b", "a-.b"),
        ] {
            assert_eq!(kernel_name_for(&image.parse().unwrap()).unwrap().as_str(), kernel);
        }
        assert_eq!(kernel_name_for(&"x".repeat(200).parse().unwrap()).unwrap().as_str().len(), 64);
    }

    #[test]
    fn forms_that_exclude_each_other_are_refused() {
        let plain = RegisterImage {
            name: "my".parse().unwrap(),
            rootfs: "/r".into(),
            kernel: None,
            kernel_file: None,
            initrd: None,
            modules: None,
            force: false,
        };
        check_shape(&plain).unwrap();
        check_shape(&RegisterImage { kernel_file: Some("/k".into()), initrd: Some("/i".into()), ..plain.clone() })
            .unwrap();
        let (kernel, file) = (Some("k-1.0".parse().unwrap()), Some("/k".into()));
        for bad in [
            RegisterImage { rootfs: "r".into(), ..plain.clone() },
            RegisterImage { kernel: kernel.clone(), kernel_file: file, ..plain.clone() },
            RegisterImage { kernel, modules: Some("/m".into()), ..plain.clone() },
            RegisterImage { initrd: Some("/i".into()), ..plain.clone() },
            RegisterImage { kernel_file: Some("k".into()), ..plain },
        ] {
            assert_eq!(check_shape(&bad).unwrap_err().code, Code::Invalid, "{bad:?}");
        }
    }
}
