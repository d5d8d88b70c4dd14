// Package nearest finds the known name that a misspelt name means.
package nearest

import "strings"

// To returns the known name of which name is probably a misspelling, or "".
func To(name string, known []string) string {
	if len(name) > 100 {
		return ""
	}
	best, limit := "", 3+len(name)/5
	if len(name) < 4 {
		limit = 2
	}
	for _, k := range known {
		d := distance(strings.ToLower(name), strings.ToLower(k))
		if d < limit && d < max(len(name), len(k)) {
			best, limit = k, d
		}
	}
	if best == "" && len(name) >= 3 { // "size" for "group_size"
		for _, k := range known {
			if strings.HasPrefix(k, name) || strings.HasSuffix(k, "_"+name) || strings.HasSuffix(name, "_"+k) {
				return k
			}
		}
	}
	return best
}

// distance returns the number of insertions, deletions, replacements and swaps of adjacent characters that
// turn a into b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(x)][len(y)]
}
