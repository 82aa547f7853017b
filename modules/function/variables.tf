variable "name" {
  description = "Name of the function."
  type        = string
}

variable "description" {
  description = "What the function does, for people who read the console."
  type        = string
}

variable "handler" {
  description = "Python entry point, module.function."
  type        = string
}

variable "package" {
  description = "The zip in S3. `identity` changes when its bytes do."
  type = object({
    bucket     = string
    key        = string
    version_id = optional(string)
    identity   = string
  })
}

variable "runtime" {
  description = "Lambda runtime."
  type        = string
}

variable "architecture" {
  description = "arm64 or x86_64."
  type        = string
}

variable "memory_mb" {
  description = "Memory in MB."
  type        = number
}

variable "timeout_seconds" {
  description = "Timeout in seconds."
  type        = number
}

variable "ephemeral_storage_mb" {
  description = "Size of /tmp in MB."
  type        = number
  default     = 512
}

variable "environment" {
  description = "Environment variables."
  type        = map(string)
}

variable "policy_statements" {
  description = "What the function may do, besides writing to its own log group."
  type = list(object({
    Sid       = string
    Action    = list(string)
    Resource  = list(string)
    Condition = optional(map(map(list(string))), {})
  }))
}

variable "role_name" {
  description = "Name of the function's role. IAM is global, so it must differ between regions."
  type        = string
}

variable "role_path" {
  description = "IAM path of the role."
  type        = string
}

variable "permissions_boundary_arn" {
  description = "Permissions boundary of the role, or null."
  type        = string
}

variable "network" {
  description = "Subnets and security groups, or null to run outside any VPC."
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
  })
}

variable "log_retention_days" {
  description = "Days that the log group keeps its lines."
  type        = number
}

variable "encryption" {
  description = "Customer key; used for the log group when `logs` is true. Null for none."
  type = object({
    kms_key_arn = string
    logs        = bool
  })
}

variable "partition" {
  description = "AWS partition."
  type        = string
}

variable "live_version" {
  description = "Version that the alias points to. Null follows the newest."
  type        = number
  default     = null
}

variable "live_after" {
  description = "Values that must be there before the alias moves to a new version."
  type        = list(string)
  default     = []
}

variable "recursive_loop" {
  description = "`Allow` for a function that sends to the queue that starts it, and has bounds of its own. Null keeps Lambda's default, which stops such loops."
  type        = string
  default     = null

  validation {
    condition     = var.recursive_loop == null ? true : contains(["Allow", "Terminate"], var.recursive_loop)
    error_message = "recursive_loop must be \"Allow\", \"Terminate\" or null."
  }
}

variable "tags" {
  description = "Tags for every resource."
  type        = map(string)
}
