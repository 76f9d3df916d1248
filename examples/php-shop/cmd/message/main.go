// SPDX-License-Identifier: Apache-2.0

// Command message is a plain HTTP service.
package main

import "remora.dev/examples/php-shop/internal/shop"

func main() { shop.New("message").Run() }
