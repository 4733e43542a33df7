# SPDX-License-Identifier: Apache-2.0
"""What a user of an engine sees: the time to the first token, and how a store grows. Each module is a program."""
