variable "name" {
  description = "Name of the pipeline."
  type        = string
}

variable "partition" {
  description = "AWS partition."
  type        = string
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "account" {
  description = "AWS account id."
  type        = string
}

variable "source_bucket" {
  description = "Name of the bucket whose objects are loaded."
  type        = string
}

variable "prefix" {
  description = "Start of the keys to load."
  type        = string
}

variable "suffix" {
  description = "End of the keys to load."
  type        = string
}

variable "manage_eventbridge_notification" {
  description = "Whether to switch EventBridge on at the bucket, replacing its other notifications."
  type        = bool
}

variable "retention_seconds" {
  description = "How long the queue keeps a message."
  type        = number
}

variable "dead_letter_retention_seconds" {
  description = "How long the dead letter queues keep a message."
  type        = number
}

variable "visibility_timeout_seconds" {
  description = "When a received message that nobody deleted comes back."
  type        = number
}

variable "max_receive_count" {
  description = "Receives before SQS moves a message to the dead letter queue."
  type        = number
}

variable "encryption" {
  description = "Customer key, or null for SSE-SQS."
  type = object({
    kms_key_arn = string
  })
}

variable "enforce_tls" {
  description = "Whether requests without TLS are denied."
  type        = bool
}

variable "tags" {
  description = "Tags for every resource."
  type        = map(string)
}
