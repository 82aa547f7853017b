# `make up` sets these.

variable "aws_endpoint_url" {
  description = "Where the AWS emulator listens."
  type        = string
}

variable "access_key_id" {
  description = "Access key that the emulator takes for the account's root."
  type        = string
}

variable "secret_access_key" {
  description = "Secret of that key."
  type        = string
  sensitive   = true
}

variable "region" {
  description = "Region that the emulator plays."
  type        = string
}

variable "firebolt_core_url" {
  description = "Where the Firebolt stand-in listens."
  type        = string
}

variable "firebolt_database" {
  description = "Database that the stand-in serves."
  type        = string
}

variable "package_path" {
  description = "The package, built for the Python that runs the emulator."
  type        = string
}

# The chaos tests set these.

variable "extra_tables" {
  description = "Tables besides those of main.tf."
  type = map(object({
    target      = optional(string)
    mode        = optional(string)
    primary_key = optional(list(string), [])
  }))
  default = {}
}

variable "loader_memory_mb" {
  description = "What a loader takes its memory to be: it bounds the rows of change files that it reads together."
  type        = number
  default     = 2048
}

variable "loader_timeout_seconds" {
  description = "How long a loader may work; what it held when it crashed is free again after that."
  type        = number
  default     = 60
}

variable "live_version" {
  description = "The loader's version that the alias PROD points to; null is the newest."
  type        = number
  default     = null
}
