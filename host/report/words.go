// Package report shows what a run did: a status line while it runs, an offline HTML page and TensorBoard
// files of its metrics, and a comparison of several runs with confidence bands. It reads run folders and
// starts nothing.
package report

import (
	"fmt"
	"strconv"
)

// Count returns "1 task" or "3 tasks".
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Thousands returns n with k for thousands or M for millions: 119k for 119000.
func Thousands(n int) string {
	switch {
	case n >= 10_000_000:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 10_000:
		return fmt.Sprintf("%dk", n/1_000)
	}
	return strconv.Itoa(n)
}
