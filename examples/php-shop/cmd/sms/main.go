// SPDX-License-Identifier: Apache-2.0

// Command sms is a plain HTTP service.
package main

import "remora.dev/examples/php-shop/internal/shop"

func main() { shop.New("sms").Run() }
