// Package vlalerobot carries the Python package vla_lerobot, which the policies on lerobot's networks share.
package vlalerobot

import "embed"

// Files is the Python package, without its checks.
//
//go:embed *.py
var Files embed.FS
