variable "name" {
  description = "Name of the pipeline."
  type        = string
}

variable "schedules" {
  description = "Schedule expression by task; `off` makes no rule."
  type        = map(string)
}

variable "function_name" {
  description = "Name of the function to invoke."
  type        = string
}

variable "alias_name" {
  description = "Name of the alias to invoke."
  type        = string
}

variable "alias_arn" {
  description = "ARN of the alias to invoke."
  type        = string
}

variable "tags" {
  description = "Tags for every rule."
  type        = map(string)
}
