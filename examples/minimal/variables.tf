variable "region" {
  description = "AWS region."
  type        = string
  default     = "eu-west-1"
}

variable "source_bucket" {
  description = "Name of the bucket that DMS writes to. EventBridge must be on at it."
  type        = string
}

variable "firebolt_s3_role_arn" {
  description = "Role with which Firebolt reads the bucket."
  type        = string
}
