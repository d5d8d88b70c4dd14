// Package vla carries the Python package vla, which the policies with torch share.
package vla

import "embed"

// Files is the Python package, without its checks.
//
//go:embed *.py
var Files embed.FS
