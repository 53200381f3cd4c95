//go:build !unix

package identity

import "io/fs"

func checkOwner(fs.FileInfo) error { return nil }
