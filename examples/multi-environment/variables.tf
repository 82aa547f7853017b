variable "environment" {
  description = "Name of the environment."
  type        = string

  validation {
    condition     = contains(["dev", "prod"], var.environment)
    error_message = "environment must be dev or prod."
  }
}

variable "region" {
  description = "AWS region."
  type        = string
  default     = "eu-west-1"
}

variable "source_bucket" {
  description = "Name of the bucket that this environment's DMS writes to."
  type        = string
}

# Every attribute of the module's variable: Terraform drops one that the type does not name, in silence. What is left out
# has the module's default.
variable "firebolt" {
  description = "This environment's Firebolt: as the module's `firebolt`."
  type = object({
    database                   = string
    account_name               = optional(string)
    engine_name                = optional(string)
    api_endpoint               = optional(string)
    secret_arn                 = optional(string)
    secret_kms_key_arn         = optional(string)
    former_secret_arns         = optional(list(string))
    former_secret_kms_key_arns = optional(list(string))
    core_url                   = optional(string)
    source_location            = optional(string)
    staging_location           = optional(string)
    s3_role_arn                = optional(string)
    s3_role_external_id        = optional(string)
  })
}

variable "loader" {
  description = "Sizes of this environment, how often a file is tried, and whether its loader rests: as the module's `loader`."
  type = object({
    memory_mb            = optional(number)
    timeout_seconds      = optional(number)
    ephemeral_storage_mb = optional(number)
    batch_size           = optional(number)
    batch_window_seconds = optional(number)
    max_concurrency      = optional(number)
    max_attempts         = optional(number)
    runtime              = optional(string)
    architecture         = optional(string)
    log_level            = optional(string)
    environment          = optional(map(string))
    paused               = optional(bool)
  })
  default = {}
}

variable "deduplication_enabled" {
  description = "Whether a file that was applied before is refused; false only to get out of trouble."
  type        = bool
  default     = true
}

variable "package_s3" {
  description = "The package that this environment runs."
  type = object({
    bucket     = string
    key        = string
    version_id = optional(string)
  })
}

variable "alarm_topic_arns" {
  description = "Topics that alarms go to."
  type        = list(string)
  default     = []
}

variable "live_version" {
  description = "Published loader version to roll back to. Null runs the newest."
  type        = number
  default     = null
}
