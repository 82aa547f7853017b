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

variable "firebolt" {
  description = "This environment's Firebolt account, engine, database, secret and role."
  type = object({
    account_name = string
    engine_name  = string
    database     = string
    secret_arn   = string
    s3_role_arn  = string
  })
}

variable "loader" {
  description = "Sizes of this environment, how often a file is tried, and whether its loader rests."
  type = object({
    memory_mb       = optional(number)
    max_concurrency = optional(number)
    max_attempts    = optional(number)
    paused          = optional(bool)
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
