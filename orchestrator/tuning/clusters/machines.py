"""What the clouds have, as far as cluster files use it: machines, places, and the keys that Ray's providers pass on.

Ray's own schema does not look into `provider` and `node_config`: a typing error there shows when a node is asked for.
"""

from typing import NamedTuple

from orchestrator.tuning.resources import ACCELERATOR


class Machine(NamedTuple):
    """One machine type."""

    cpus: int
    gpus: int
    memory_gib: int
    accelerator: str | None = None  # Ray's name for it

    @property
    def resources(self) -> dict[str, int]:
        """As a cluster file has to give them."""
        accelerator = {f"{ACCELERATOR}{self.accelerator}": 1} if self.accelerator else {}
        return {"CPU": self.cpus, "GPU": self.gpus} | accelerator


MACHINES: dict[str, dict[str, Machine]] = {
    "aws": {
        "m6i.xlarge": Machine(4, 0, 16),
        "m6i.2xlarge": Machine(8, 0, 32),
        "m6i.4xlarge": Machine(16, 0, 64),
        "g5.2xlarge": Machine(8, 1, 32, "A10G"),
        "g5.12xlarge": Machine(48, 4, 192, "A10G"),
        "g5.48xlarge": Machine(192, 8, 768, "A10G"),
        "g6.2xlarge": Machine(8, 1, 32, "L4"),
        "g6.12xlarge": Machine(48, 4, 192, "L4"),
        "g6.48xlarge": Machine(192, 8, 768, "L4"),
        "p4d.24xlarge": Machine(96, 8, 1152, "A100"),
        "p4de.24xlarge": Machine(96, 8, 1152, "A100"),
        "p5.48xlarge": Machine(192, 8, 2048, "H100"),
    },
    "gcp": {
        "n2-standard-4": Machine(4, 0, 16),
        "n2-standard-8": Machine(8, 0, 32),
        "n2-standard-16": Machine(16, 0, 64),
        "a2-highgpu-1g": Machine(12, 1, 85, "A100"),
        "a2-highgpu-2g": Machine(24, 2, 170, "A100"),
        "a2-highgpu-4g": Machine(48, 4, 340, "A100"),
        "a2-highgpu-8g": Machine(96, 8, 680, "A100"),
        "a3-highgpu-8g": Machine(208, 8, 1872, "H100"),
    },
    "azure": {
        "Standard_D4s_v5": Machine(4, 0, 16),
        "Standard_D8s_v5": Machine(8, 0, 32),
        "Standard_D16s_v5": Machine(16, 0, 64),
        "Standard_NC24ads_A100_v4": Machine(24, 1, 220, "A100"),
        "Standard_ND96asr_v4": Machine(96, 8, 900, "A100"),
        "Standard_ND96amsr_A100_v4": Machine(96, 8, 1900, "A100"),
        "Standard_ND96isr_H100_v5": Machine(96, 8, 1900, "H100"),
    },
}

# Regions, as the clouds call them; which of them have a machine changes.
REGIONS: dict[str, set[str]] = {
    "aws": {
        "us-east-1", "us-east-2", "us-west-1", "us-west-2", "ca-central-1", "sa-east-1", "mx-central-1", "eu-west-1",
        "eu-west-2", "eu-west-3", "eu-central-1", "eu-central-2", "eu-north-1", "eu-south-1", "eu-south-2",
        "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-south-2", "ap-southeast-1",
        "ap-southeast-2", "ap-southeast-3", "ap-southeast-4", "me-central-1", "me-south-1", "il-central-1",
        "af-south-1",
    },
    "gcp": {
        "us-central1", "us-east1", "us-east4", "us-east5", "us-south1", "us-west1", "us-west2", "us-west3", "us-west4",
        "northamerica-northeast1", "northamerica-northeast2", "southamerica-east1", "europe-west1", "europe-west2",
        "europe-west3", "europe-west4", "europe-west8", "europe-west9", "europe-west12", "europe-north1",
        "europe-southwest1", "europe-central2", "asia-east1", "asia-northeast1", "asia-northeast3", "asia-south1",
        "asia-south2", "asia-southeast1", "australia-southeast1", "me-west1", "me-central1",
    },
    "azure": {
        "eastus", "eastus2", "centralus", "northcentralus", "southcentralus", "westus", "westus2", "westus3",
        "canadacentral", "brazilsouth", "northeurope", "westeurope", "uksouth", "francecentral", "germanywestcentral",
        "italynorth", "polandcentral", "spaincentral", "swedencentral", "norwayeast", "switzerlandnorth",
        "southafricanorth", "uaenorth", "israelcentral", "centralindia", "southindia", "japaneast", "koreacentral",
        "southeastasia", "eastasia", "australiaeast",
    },
}  # fmt: skip

_EVERYWHERE = {"type", "module", "use_internal_ips", "cache_stopped_nodes"}
PROVIDER_KEYS: dict[str, set[str]] = {
    "aws": _EVERYWHERE | {"region", "availability_zone", "security_group", "key_pair", "aws_credentials", "cloudwatch"},
    "gcp": _EVERYWHERE | {"region", "availability_zone", "project_id", "gcp_credentials"},
    "azure": _EVERYWHERE
    | {
        "location", "resource_group", "subscription_id", "subnet_mask", "unique_id", "tags", "availability_zone",
        "msi_name", "msi_resource_group", "use_external_head_ip",
    },
    "local": {"type", "head_ip", "worker_ips", "coordinator_address", "use_internal_ips"},
}  # fmt: skip

NODE_KEYS: dict[str, set[str]] = {
    "aws": {
        "InstanceType", "ImageId", "SubnetIds", "SubnetId", "SecurityGroupIds", "KeyName", "IamInstanceProfile",
        "MetadataOptions", "InstanceMarketOptions", "BlockDeviceMappings", "TagSpecifications", "UserData", "Placement",
        "NetworkInterfaces", "LaunchTemplate", "CapacityReservationSpecification", "EbsOptimized", "Monitoring",
    },
    "gcp": {
        "machineType", "disks", "networkInterfaces", "scheduling", "tags", "metadata", "serviceAccounts", "labels",
        "guestAccelerators", "shieldedInstanceConfig", "minCpuPlatform", "sourceInstanceTemplate",
        "reservationAffinity",
    },
    "azure": {"azure_arm_parameters", "tags"},
    "azure_arm_parameters": {
        "vmSize", "imagePublisher", "imageOffer", "imageSku", "imageVersion", "imageId", "osDiskSize", "priority",
        "evictionPolicy", "billingProfile", "enableAcceleratedNetworking", "availability_zone", "adminUsername",
        "publicKey",
    },
}  # fmt: skip
