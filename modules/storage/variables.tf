variable "bucket" {
  description = "Name of the bucket."
  type        = string
}

variable "force_destroy" {
  description = "Whether the bucket may be destroyed with its contents."
  type        = bool
}

variable "staging_prefix" {
  description = "Where staged files are written. They live one day."
  type        = string
}

variable "package_prefix" {
  description = "Where packages are kept."
  type        = string
}

variable "encryption" {
  description = "Customer key, or null for SSE-S3."
  type = object({
    kms_key_arn = string
  })
}

variable "enforce_tls" {
  description = "Whether requests without TLS are denied."
  type        = bool
}

variable "tags" {
  description = "Tags for the bucket."
  type        = map(string)
}
