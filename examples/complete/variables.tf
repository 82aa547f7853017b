variable "region" {
  description = "AWS region."
  type        = string
  default     = "eu-west-1"
}

variable "name" {
  description = "Name of the pipeline."
  type        = string
  default     = "fair-prod"
}

variable "source_bucket" {
  description = "Name of the bucket that DMS writes to."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets with a way to S3, SQS, Secrets Manager, CloudWatch Logs and Firebolt."
  type        = list(string)
}

variable "security_group_ids" {
  description = "Security groups of the functions."
  type        = list(string)
}

variable "firebolt_principal_arn" {
  description = "The AWS principal of your Firebolt account that assumes the role."
  type        = string
}

variable "firebolt_external_id" {
  description = "The external id that Firebolt sends with it."
  type        = string
}

variable "permissions_boundary_arn" {
  description = "Boundary for the functions' roles, or null."
  type        = string
  default     = null
}

variable "package_s3" {
  description = "The released package. Null takes dist/firebolt-cdc.zip, built with `make package`."
  type = object({
    bucket     = string
    key        = string
    version_id = optional(string)
  })
  default = null
}

variable "live_version" {
  description = "Published loader version to run. Null runs the newest."
  type        = number
  default     = null
}
